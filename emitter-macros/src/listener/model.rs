//! Decides everything about a listener before anything is printed.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::{FnArg, GenericArgument, Ident, ItemFn, LitStr, Path, PathArguments, ReturnType, Type};

use super::attr::{ListenerAttr, ModelRef, Options};
use super::filter::Filter;
use crate::crate_path;
use crate::errors::Errors;

/// A listener, decided.
pub(crate) struct Listener {
    pub(crate) krate: TokenStream,
    pub(crate) function: Ident,
    pub(crate) is_async: bool,
    pub(crate) name: String,
    pub(crate) model: ModelRef,
    pub(crate) hears: Hears,
    pub(crate) group: Option<LitStr>,
    pub(crate) filters: Vec<Filter>,
    pub(crate) options: Options,
    /// The `T` of `Event<T>`.
    pub(crate) event: Type,
    /// `Event`, as the user calls it.
    wrapper: Path,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) output: ReturnType,
}

/// Which side's events it hears.
pub(crate) enum Hears {
    Local,
    Everything,
    Remote,
}

/// A parameter of the function, in order.
pub(crate) enum Parameter {
    /// `Event<…>`.
    Event,
    /// `Context`.
    Context,
    /// The `T` of a `State<T>`.
    State(Box<Type>),
    /// The connection of an `InboxTx<'_, C>`.
    InboxTx(Box<Type>),
}

impl Listener {
    pub(crate) fn new(attribute: TokenStream, function: TokenStream) -> syn::Result<Self> {
        let errors = Errors::default();
        let function: ItemFn = syn::parse2(function).map_err(|error| {
            syn::Error::new(
                error.span(),
                "`#[listener]` goes on a function, such as `async fn on_user(event: Event<UserEvent>) { … }`",
            )
        })?;
        let attr = ListenerAttr::parse(attribute, &errors);
        // What is missing may be what was misspelt.
        let complete = errors.is_empty();
        refuse_signature(&function, &errors);
        let (event, wrapper, parameters) = parameters(&function, &errors);
        refuse_inbox(&function, attr.krate.as_ref(), &errors);
        if attr.model.is_none() && complete {
            errors.at(
                &function.sig.ident,
                "which model does it listen to? Write `#[listener(model = \"user\")]`",
            );
        }
        errors.finish()?;
        let missing = || syn::Error::new(proc_macro2::Span::call_site(), "incomplete");
        Ok(Self {
            krate: crate_path::core(attr.krate.as_ref()),
            is_async: function.sig.asyncness.is_some(),
            name: attr.name.map_or_else(|| function.sig.ident.unraw().to_string(), |name| name.value()),
            model: attr.model.ok_or_else(missing)?,
            hears: match (attr.allow_remote, attr.remote_only, &attr.group) {
                (_, Some(_), _) => Hears::Remote,
                (Some(_), None, _) | (None, None, Some(_)) => Hears::Everything,
                (None, None, None) => Hears::Local,
            },
            group: attr.group,
            options: Options {
                before: attr.options.before.or(attr.filters.iter().any(Filter::needs_before).then_some(())),
                ..attr.options
            },
            filters: attr.filters,
            event: event.ok_or_else(missing)?,
            wrapper: wrapper.ok_or_else(missing)?,
            parameters,
            output: function.sig.output.clone(),
            function: function.sig.ident,
        })
    }
}

impl Listener {
    /// The mistake of `Event<UserRow>` for the model `user`. Of `Event<User>` only the compiler knows that it is
    /// one: `User` may be an event that is no row.
    pub(crate) fn row_for_event(&self) -> Option<TokenStream> {
        let model = match &self.model {
            ModelRef::Name(name) => name.value(),
            ModelRef::Type(path) => {
                path.segments.last().map(|last| last.ident.to_string()).unwrap_or_default()
            }
        };
        let name = last_word(&self.event)?;
        let model = name.strip_suffix("Row").filter(|row| row.eq_ignore_ascii_case(&model))?;
        let mistake = syn::Error::new_spanned(
            &self.event,
            format_args!(
                "`{name}` is a row and not an event: take `Event<{model}Event>`, or `Event<{model}Created>` and the like \
                 for one operation,\nwhich `#[derive(Emits)]` on `{model}` makes of its operations"
            ),
        );
        let (mistake, wrapper) = (mistake.to_compile_error(), &self.wrapper);
        // Its import is no second mistake.
        Some(quote! {
            #mistake
            const _: () = {
                #[allow(unused_imports)]
                use #wrapper as _;
            };
        })
    }
}

/// Whether a type is called as the derive calls events.
fn is_event(name: &str) -> bool {
    let ends =
        ["Event", "Created", "CreatedMany", "Updated", "UpdatedMany", "Upserted", "Deleted", "DeletedMany"];
    ends.iter().any(|end| name.ends_with(end))
}

/// The last part of a type's path, where that is all there is to say of it.
fn last_word(ty: &Type) -> Option<String> {
    match ty {
        Type::Path(path) => path
            .path
            .segments
            .last()
            .filter(|last| last.arguments.is_none())
            .map(|last| last.ident.unraw().to_string()),
        Type::Group(group) => last_word(&group.elem),
        _ => None,
    }
}

fn refuse_signature(function: &ItemFn, errors: &Errors) {
    let signature = &function.sig;
    match signature.generics.params.first() {
        Some(lifetime @ syn::GenericParam::Lifetime(_)) => {
            errors.at(lifetime, "a listener takes nothing that is borrowed: all its parameters are its own");
        }
        Some(parameter) => {
            errors.at(parameter, "a listener cannot be generic: it is called with one type of event");
        }
        None => {}
    }
    if let Some(word) = &signature.constness {
        errors.at(word, "a listener is called while the program runs: leave `const` out");
    }
    if let Some(abi) = &signature.abi {
        errors.at(abi, "a listener is called by Rust: leave `extern` out");
    }
    if let ReturnType::Type(_, ty) = &signature.output
        && let Type::ImplTrait(_) = &**ty
    {
        errors.at(ty, "write `async fn`, and what it comes to: nothing, or `Result<(), E>`");
    }
    if let syn::Safety::Unsafe(word) = &signature.safety {
        errors.at(word, "a listener cannot be unsafe: the framework calls it, and it promises nothing");
    }
    if let Some(variadic) = &signature.variadic {
        errors.at(variadic, "a listener takes one `Event<…>` and any number of `State<…>`");
    }
}

/// The event's type, what wraps it, and all parameters in order.
fn parameters(function: &ItemFn, errors: &Errors) -> (Option<Type>, Option<Path>, Vec<Parameter>) {
    let (mut event, mut wrapper) = (None, None);
    let mut parameters = Vec::new();
    // A parameter that was refused may be the event.
    let mut refused = false;
    for input in &function.sig.inputs {
        let FnArg::Typed(input) = input else {
            errors.at(input, "a listener is a free function: take what it needs as `State<…>`");
            refused = true;
            continue;
        };
        match wrapped(&input.ty) {
            None if is_context(&input.ty) => parameters.push(Parameter::Context),
            None if is_inbox_tx(&input.ty) => match connection(&input.ty) {
                Some(connection) => parameters.push(Parameter::InboxTx(Box::new(connection.clone()))),
                None => errors.at(
                    &input.ty,
                    "say on which connection: `InboxTx<'_, PgConnection>` in a plain `fn`, `InboxTx<'_, AsyncPgConnection>` \
                     in an `async fn`",
                ),
            },
            Some(("Event", ty)) => {
                parameters.push(Parameter::Event);
                wrapper = bare(&input.ty);
                if event.replace(ty.clone()).is_some() {
                    errors.at(&input.ty, "a second `Event<…>`: a listener is called with one event");
                }
            }
            Some((_, ty)) => parameters.push(Parameter::State(Box::new(ty.clone()))),
            None => {
                refused = true;
                errors.at(&input.ty, refusal(&input.ty));
            }
        }
    }
    if event.is_none() && !refused {
        errors.at(
            &function.sig.ident,
            "which event does it take? Add a parameter such as `event: Event<UserEvent>`, or `Event<UserCreated>` for one operation",
        );
    }
    (event, wrapper, parameters)
}

/// What can be said of transactions without knowing types.
fn refuse_inbox(function: &ItemFn, krate: Option<&Path>, errors: &Errors) {
    let mut transactions = function.sig.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(input) if is_inbox_tx(&input.ty) => Some(&input.ty),
        _ => None,
    });
    let Some(first) = transactions.next() else { return };
    if crate_path::is_core(krate) {
        errors.at(
            first,
            "`InboxTx` is a transaction in a database, and `emitter-core` knows none: depend on `emitter-diesel`, which has all \
             of `emitter-core` in it",
        );
    }
    for another in transactions {
        errors.at(another, "a second `InboxTx`: an event is claimed in one transaction");
    }
}

/// Why a type cannot be a parameter.
fn refusal(ty: &Type) -> String {
    if let Some(name) = last_word(ty).filter(|name| name.len() > "Event".len() && is_event(name)) {
        return format!("an event comes with what surrounds it: write `Event<{name}>`");
    }
    let refusal = match ty {
        Type::Reference(reference)
            if wrapped(&reference.elem).is_some()
                || is_context(&reference.elem)
                || is_inbox_tx(&reference.elem) =>
        {
            "a listener takes its parameters by value: leave the `&` out"
        }
        Type::Tuple(_) => "a listener takes one event at a time, as `Event<…>`",
        _ if last_word(ty).is_some_and(|name| name == "Event") => {
            "say which event: `Event<UserEvent>` for all operations of `User`, or `Event<UserCreated>` for one"
        }
        _ => {
            "a listener takes one `Event<…>`, any number of `State<…>`, and a `Context` if it likes.\n\
             Share a value with `.state(value)` on the builder and take it as `State<Value>`.\n\
             A transaction in which its effect happens once is an `InboxTx<'_, PgConnection>`"
        }
    };
    refusal.to_owned()
}

/// `Event` of `Event<T>`.
fn bare(ty: &Type) -> Option<Path> {
    match ty {
        Type::Path(path) => {
            let mut path = path.path.clone();
            path.segments.last_mut()?.arguments = PathArguments::None;
            Some(path)
        }
        Type::Group(group) => bare(&group.elem),
        _ => None,
    }
}

/// `Context`, by the last part of the path.
fn is_context(ty: &Type) -> bool {
    match ty {
        Type::Path(path) => {
            path.path.segments.last().is_some_and(|last| last.ident == "Context" && last.arguments.is_none())
        }
        Type::Group(group) => is_context(&group.elem),
        _ => false,
    }
}

/// `InboxTx`, by the last part of the path.
fn is_inbox_tx(ty: &Type) -> bool {
    last(ty).is_some_and(|last| last.ident == "InboxTx")
}

/// The `C` of `InboxTx<'_, C>`.
fn connection(ty: &Type) -> Option<&Type> {
    let PathArguments::AngleBracketed(arguments) = &last(ty)?.arguments else { return None };
    let mut types = arguments.args.iter().filter_map(|argument| match argument {
        GenericArgument::Type(ty) => Some(ty),
        _ => None,
    });
    types.next().filter(|_| types.next().is_none())
}

/// The last part of a type's path.
fn last(ty: &Type) -> Option<&syn::PathSegment> {
    match ty {
        Type::Path(path) => path.path.segments.last(),
        Type::Group(group) => last(&group.elem),
        _ => None,
    }
}

/// `Event<T>` and `State<T>`, by the last part of the path.
fn wrapped(ty: &Type) -> Option<(&'static str, &Type)> {
    let path = match ty {
        Type::Path(path) => path,
        // A type that a `macro_rules!` macro was given.
        Type::Group(group) => return wrapped(&group.elem),
        _ => return None,
    };
    let last = path.path.segments.last()?;
    let name = ["Event", "State"].into_iter().find(|name| last.ident == name)?;
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
    match arguments.args.first()? {
        GenericArgument::Type(ty) if arguments.args.len() == 1 => Some((name, ty)),
        _ => None,
    }
}

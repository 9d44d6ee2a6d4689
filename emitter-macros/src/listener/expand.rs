//! Prints what was decided: one registration, which calls into ordinary functions.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Ident, LitInt, ReturnType, Type};

use super::attr::{ModelRef, Options};
use super::filter::expand as filter;
use super::model::{Hears, Listener, Parameter};
use crate::crate_path;
use crate::time::Millis;

pub(crate) fn expand(listener: &Listener) -> TokenStream {
    let Listener { krate, name, event, .. } = listener;
    let hears = match listener.hears {
        Hears::Local => quote!(Local),
        Hears::Everything => quote!(Everything),
        Hears::Remote => quote!(Remote),
    };
    let group = match &listener.group {
        Some(group) => quote!(::core::option::Option::Some(#group)),
        None => quote!(::core::option::Option::None),
    };
    let prepare = prepare(listener);
    let agree = agree(listener);
    let checks = filter::checks(&listener.filters, krate, event);
    // A filter's predicate is a closure, for the name of a function would be a value.
    let lints = (!listener.filters.is_empty())
        .then(|| quote!(#[allow(clippy::redundant_closure, clippy::redundant_closure_for_method_calls)]));
    quote! {
        #lints
        const _: () = {
            #agree
            #checks

            #krate::__private::inventory::submit! {
                #krate::__private::Registration {
                    name: #name,
                    wanted: #krate::__private::wanted::<#event>(),
                    hears: #krate::__private::Hears::#hears,
                    group: #group,
                    module: ::core::module_path!(),
                    defined_at: ::core::concat!(::core::file!(), ":", ::core::line!()),
                    prepare: #prepare,
                }
            }
        };
    }
}

/// The check that the model and the event's type agree.
fn agree(listener: &Listener) -> TokenStream {
    let Listener { krate, event, .. } = listener;
    match &listener.model {
        ModelRef::Name(model) => {
            let check = quote_spanned! {model.span()=>
                ::core::assert!(
                    #krate::__private::same_model(#krate::__private::wanted::<#event>().model, #model),
                    "{}", #krate::__private::other_model::<#event>(#model).as_str()
                )
            };
            quote!(const _: () = #check;)
        }
        ModelRef::Type(model) => quote!(const _: fn() = #krate::__private::listens_to::<#event, #model>;),
    }
}

/// Takes the states, and makes the handler that calls the function. A closure, for the name of a
/// function would hide a listener of the same name.
fn prepare(listener: &Listener) -> TokenStream {
    let Listener { krate, name, function, event, parameters, output, .. } = listener;
    // Variables of ours are of mixed site, so that they hide no name of the user's.
    let variable = |name: &str, at: Span| Ident::new(&format!("__{name}"), Span::mixed_site().located_at(at));
    let state = |index: usize, ty: &Type| variable(&format!("state_{index}"), ty.span());
    let [states, transaction, made] =
        ["states", "transaction", "made"].map(|name| variable(name, Span::call_site()));
    let event_variable = variable("event", event.span());
    let takes = parameters.iter().enumerate().filter_map(|(index, parameter)| match parameter {
        Parameter::Event | Parameter::Context | Parameter::InboxTx(_) => None,
        Parameter::State(ty) => {
            let state = state(index, ty);
            Some(quote_spanned! {ty.span()=> let #state = #states.get::<#ty>()?; })
        }
    });
    let with_context = parameters.iter().any(|parameter| matches!(parameter, Parameter::Context));
    let [home, attempt, context] = ["home", "attempt", "context"].map(|name| variable(name, event.span()));
    let connection = parameters.iter().find_map(|parameter| match parameter {
        Parameter::InboxTx(connection) => Some(connection),
        _ => None,
    });
    // One that claims is told its context by whoever calls it.
    let take_home = (with_context && connection.is_none()).then(|| quote! { let #home = #states.home(); });
    let make_context = with_context.then(|| {
        quote! { let #context = #krate::__private::context(&#event_variable, #attempt, &#home); }
    });
    let attempt = if with_context { quote!(#attempt) } else { quote!(_) };
    let arguments = parameters.iter().enumerate().map(|(index, parameter)| match parameter {
        Parameter::Event => quote!(#event_variable),
        Parameter::Context => quote!(::core::clone::Clone::clone(&#context)),
        Parameter::InboxTx(_) => quote!(#transaction),
        Parameter::State(ty) => {
            let state = state(index, ty);
            quote_spanned!(ty.span()=> ::core::clone::Clone::clone(&#state))
        }
    });
    // What the function returns is refused where the user wrote it.
    let output = match output {
        ReturnType::Default => function.span(),
        ReturnType::Type(_, ty) => ty.span(),
    };
    let located = crate_path::located(krate, output);
    let call = quote_spanned!(output=> #function(#(#arguments),*));
    let handler = match connection {
        None => {
            let constructor =
                Ident::new(if listener.is_async { "from_async" } else { "from_blocking" }, output);
            quote_spanned! {output=>
                #located::__private::Handler::#constructor::<#event, _, _>(move |#event_variable, #attempt| {
                    #make_context
                    #call
                })
            }
        }
        Some(connection) => {
            let (constructor, call) = if listener.is_async {
                ("in_async_fn", quote_spanned!(output=> #located::__private::boxed(#call)))
            } else {
                ("in_plain_fn", call)
            };
            let constructor = Ident::new(constructor, output);
            let context = if with_context { quote!(#context) } else { quote!(_) };
            quote_spanned! {output=>
                #located::__private::#constructor::<#event, #connection, _, _>(
                    #states,
                    #name,
                    move |#event_variable, #context, #transaction| #call,
                )?
            }
        }
    };
    let filtered =
        filter::expand(&listener.filters, krate, event).map(|filter| quote!(.filtered::<#event>(#filter)));
    let options = options(listener);
    quote! {
        |#states: &#krate::__private::States| {
            #(#takes)*
            #take_home
            let #made = #handler;
            ::core::result::Result::Ok(#made #filtered #options)
        }
    }
}

/// How the listener is called, if it says anything about that.
fn options(listener: &Listener) -> Option<TokenStream> {
    let Listener { krate, options, .. } = listener;
    let Options { concurrency, timeout, unordered, attempts, backoff, jitter, budget, before, .. } = options;
    let some = |value: TokenStream| quote!(::core::option::Option::Some(#value));
    let number = |field: &str, number: &Option<LitInt>| {
        let field = Ident::new(field, Span::call_site());
        number.as_ref().map(|number| {
            let value = some(quote!(#number));
            quote!(#field: #value,)
        })
    };
    let time = |field: &str, time: &Option<Millis>| {
        let field = Ident::new(field, Span::call_site());
        time.map(|Millis(millis)| {
            let value = some(quote!(::core::time::Duration::from_millis(#millis)));
            quote!(#field: #value,)
        })
    };
    let unordered = unordered.as_ref().map(|_| quote!(unordered: true,));
    let before = before.map(|()| quote!(before: true,));
    let forgets = options.dead_letter.as_ref().is_some_and(|dead_letter| !dead_letter.value);
    let no_dead_letter = forgets.then(|| quote!(no_dead_letter: true,));
    let fields: TokenStream = [
        number("concurrency", concurrency),
        time("timeout", timeout),
        unordered,
        no_dead_letter,
        before,
        number("attempts", attempts),
        time("backoff", backoff),
        time("jitter", jitter),
        time("budget", budget),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!options.is_empty()).then(|| {
        quote! {
            .with(#krate::__private::ListenerOptions { #fields ..::core::default::Default::default() })
        }
    })
}

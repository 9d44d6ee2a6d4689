//! Prints what was decided.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Ident, ImplGenerics, Lifetime, Path, TypeGenerics, WhereClause, parse_quote};

use super::attr::{Before, Mask};
use super::model::{Column, KeyField, Model, Operation, Persistence, Reach, Row};
use crate::crate_path;
use crate::time::Millis;

pub(crate) fn expand(model: &Model) -> TokenStream {
    let (row, events) = match &model.event {
        Some(_) => (None, event(model)),
        None => (Some(row(model)), events(model)),
    };
    let diff = diff(model);
    let implementation = implementation(model);
    let reach = reach(model);
    let emits = model.operations.iter().map(|operation| emits(model, *operation));
    let registration = registration(model);
    quote! {
        #row
        #events
        #diff
        #implementation
        #reach
        #(#emits)*
        #registration
    }
}

/// An event that is no row is handed to listeners itself.
fn event(model: &Model) -> TokenStream {
    let Model { krate, ident, generics, .. } = model;
    let (parameters, arguments, bounds) = generics.split_for_impl();
    let created = quote!(#krate::model::Created<Self>);
    let single = (!model.key.is_empty()).then(|| {
        quote! {
            #[automatically_derived]
            impl #parameters #krate::model::SingleRow for #ident #arguments #bounds {}
        }
    });
    quote! {
        #[automatically_derived]
        impl #parameters #krate::model::EventBody for #ident #arguments #bounds {
            type Model = Self;
            const OPERATION: ::core::option::Option<#krate::event::Operation> = ::core::option::Option::None;

            #[inline]
            fn of(__event: &#created) -> ::core::option::Option<&Self> {
                ::core::option::Option::Some(&__event.row)
            }

            #[inline]
            fn into_event(self) -> #created {
                <#created>::new(self)
            }
        }

        #single
    }
}

/// `UserRow`, generated or as another name of the model.
fn row(model: &Model) -> TokenStream {
    let Model { krate, vis, ident, generics, .. } = model;
    let row_ident = model.row_ident();
    let (_, arguments, _) = generics.split_for_impl();
    let Some(Row { attributes, names_serde, fields }) = &model.row else {
        let doc =
            format!("What listeners of [`{ident}`] are handed: the model itself, since it skips no field.");
        let parameters = model.parameters();
        return quote! {
            #[doc = #doc]
            #[allow(dead_code)]
            #vis type #row_ident #parameters = #ident #arguments;
        };
    };
    let serde_path = quote!(#krate::__private::serde).to_string().replace(' ', "");
    let serde_path = (!names_serde).then(|| quote!(#[serde(crate = #serde_path)]));
    let doc =
        format!("What listeners of [`{ident}`] are handed: the model without the values that it hides.");
    let fields = fields.iter().map(|field| {
        let (attributes, vis, ident, ty) = (&field.attributes, &field.vis, &field.ident, &field.ty);
        quote! { #(#attributes)* #vis #ident: #ty }
    });
    // Only the user's own bounds: serde's derives add theirs, and with ours they would be ambiguous.
    let bounds = &model.own_bounds;
    quote! {
        #[doc = #doc]
        #[derive(
            ::core::fmt::Debug, ::core::clone::Clone, ::core::cmp::PartialEq,
            #krate::__private::serde::Serialize, #krate::__private::serde::Deserialize,
        )]
        #serde_path
        #(#attributes)*
        #vis struct #row_ident #generics #bounds { #(#fields,)* }
    }
}

/// `UserCreated` and the others, and `UserEvent`.
fn events(model: &Model) -> TokenStream {
    let Model { krate, vis, ident, operations, generics, .. } = model;
    let event = model.event_ident();
    let (parameters, arguments, bounds) = generics.split_for_impl();
    let named = model.parameters();
    let aliases = operations.iter().map(|operation| {
        let alias = model.alias_ident(*operation);
        let body = operation.body_ident();
        let doc = format!("The event of `{}` on [`{ident}`].", operation.word());
        quote! {
            #[doc = #doc]
            #[allow(dead_code)]
            #vis type #alias #named = #krate::model::#body<#ident #arguments>;
        }
    });
    let variants = operations.iter().map(|operation| {
        let body = operation.body_ident();
        let doc = format!("By `{}`.", operation.word());
        quote! { #[doc = #doc] #body(#krate::model::#body<#ident #arguments>) }
    });
    let to_body = operations.iter().map(|operation| {
        let (variant, body) = (operation.variant_ident(), operation.body_ident());
        quote! { Self::#body(__body) => #krate::model::BodyRef::#variant(__body) }
    });
    let from_body = operations.iter().map(|operation| {
        let (variant, body) = (operation.variant_ident(), operation.body_ident());
        quote! { #krate::model::Body::#variant(__body) => ::core::option::Option::Some(Self::#body(__body)) }
    });
    let rest =
        (operations.len() < Operation::ALL.len()).then(|| quote! { _ => ::core::option::Option::None });
    let single = operations.iter().all(|operation| !operation.is_bulk()).then(|| {
        quote! {
            #[automatically_derived]
            impl #parameters #krate::model::SingleRow for #event #arguments #bounds {}
        }
    });
    let doc = format!("The events of [`{ident}`].");
    quote! {
        #(#aliases)*

        #[doc = #doc]
        #[derive(::core::clone::Clone)]
        #vis enum #event #generics #bounds { #(#variants,)* }

        #[automatically_derived]
        impl #parameters #krate::model::EventBody for #event #arguments #bounds {
            type Model = #ident #arguments;
            const OPERATION: ::core::option::Option<#krate::event::Operation> = ::core::option::Option::None;

            #[inline]
            fn of(__event: &Self) -> ::core::option::Option<&Self> {
                ::core::option::Option::Some(__event)
            }

            #[inline]
            fn into_event(self) -> Self {
                self
            }
        }

        #[automatically_derived]
        impl #parameters #krate::model::ModelEvent<#ident #arguments> for #event #arguments #bounds {
            #[inline]
            fn body(&self) -> #krate::model::BodyRef<'_, #ident #arguments> {
                match self { #(#to_body,)* }
            }

            #[inline]
            fn from_body(__body: #krate::model::Body<#ident #arguments>) -> ::core::option::Option<Self> {
                match __body { #(#from_body,)* #rest }
            }
        }

        #single
    }
}

/// `UserDiff`, with a method for each column, if the model is updated.
fn diff(model: &Model) -> Option<TokenStream> {
    let Model { krate, vis, ident, columns, .. } = model;
    let diff = model.diff_ident()?;
    let methods = columns.iter().enumerate().map(|(place, Column { vis, ident, ty, .. })| {
        let doc = format!("The old and the new `{}`, if it changed.", ident.unraw());
        quote! {
            #[doc = #doc]
            #[inline]
            #vis fn #ident(&self) -> ::core::option::Option<#krate::diff::Change<'e, #ty>> {
                self.0.column(#place, |__row| &__row.#ident)
            }
        }
    });
    let (_, model_arguments, bounds) = model.generics.split_for_impl();
    let mut generics = model.generics.clone();
    let lifetime: Lifetime = parse_quote!('e);
    generics.params.insert(0, parse_quote!(#lifetime));
    let (parameters, arguments, _) = generics.split_for_impl();
    let doc = format!("What an update of [`{ident}`] changed, column by column.");
    Some(quote! {
        #[doc = #doc]
        #[derive(::core::fmt::Debug, ::core::clone::Clone, ::core::marker::Copy)]
        #vis struct #diff #generics (#krate::diff::Diff<'e, #ident #model_arguments>) #bounds;

        #[allow(dead_code, clippy::must_use_candidate, clippy::should_implement_trait, clippy::wrong_self_convention)]
        impl #parameters #diff #arguments #bounds { #(#methods)* }

        #[automatically_derived]
        impl #parameters ::core::ops::Deref for #diff #arguments #bounds {
            type Target = #krate::diff::Diff<'e, #ident #model_arguments>;

            #[inline]
            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }
    })
}

/// What of [`Model`](trait@Model) is about columns.
fn columns(model: &Model, row: &TokenStream) -> TokenStream {
    let Model { krate, columns, .. } = model;
    let described = columns.iter().map(|column| {
        let Column { ident, type_name, may_be_absent, wire_name, place, .. } = column;
        let field = ident.unraw().to_string();
        let place = match place {
            Some(place) => quote!(::core::option::Option::Some(#place)),
            None => quote!(::core::option::Option::None),
        };
        let absent = may_be_absent.then(|| quote!(.absent()));
        quote!(#krate::columns::Column::new(#field, #wire_name, #type_name, #place) #absent)
    });
    let all = model.fields;
    let fields = (all != columns.len()).then(|| quote!(const FIELDS: ::core::primitive::usize = #all;));
    let described = quote! {
        #fields
        const COLUMNS: &'static [#krate::columns::Column] = &[#(#described,)*];
    };
    let Some(diff) = model.diff_ident() else {
        return quote! {
            #described
            type Diff<'e> = #krate::diff::Diff<'e, Self>;

            #[inline]
            fn diff<'e>(__diff: #krate::diff::Diff<'e, Self>) -> #krate::diff::Diff<'e, Self> {
                __diff
            }

            #[inline]
            fn differing(_: &#row, _: &#row) -> #krate::columns::Columns {
                #krate::columns::Columns::NONE
            }
        };
    };
    let [before, after] = ["__before", "__after"].map(|name| Ident::new(name, Span::mixed_site()));
    // With its type, so that one that cannot be compared is refused there.
    let flags = columns.iter().map(
        |Column { ident, ty, .. }| quote!(#krate::__private::differ::<#ty>(&#before.#ident, &#after.#ident)),
    );
    let generics = model.generics.params.iter().map(|parameter| match parameter {
        syn::GenericParam::Type(parameter) => parameter.ident.to_token_stream(),
        syn::GenericParam::Const(parameter) => parameter.ident.to_token_stream(),
        syn::GenericParam::Lifetime(parameter) => parameter.lifetime.to_token_stream(),
    });
    let diff_type = quote!(#diff<'e, #(#generics,)*>);
    quote! {
        #described
        type Diff<'e> = #diff_type;

        #[inline]
        fn diff<'e>(__diff: #krate::diff::Diff<'e, Self>) -> #diff_type {
            #diff(__diff)
        }

        #[inline]
        fn differing(#before: &#row, #after: &#row) -> #krate::columns::Columns {
            #krate::columns::Columns::from_flags([#(#flags,)*])
        }
    }
}

fn implementation(model: &Model) -> TokenStream {
    let Model { krate, ident, name, key, .. } = model;
    let (parameters, arguments, bounds) = model.generics.split_for_impl();
    let event = model.event_type();
    let kind = model.event.as_ref().map(|kind| {
        quote! {
            const EVENT: ::core::option::Option<&'static ::core::primitive::str> = ::core::option::Option::Some(#kind);
        }
    });
    let operations = model.operations.iter().map(|operation| operation.variant_ident());
    let key_columns = key.iter().map(|field| &field.wire_name);
    // Not by its other name: where that is taken, one error is enough.
    let row_ident = if model.row.is_some() { model.row_ident() } else { ident.clone() };
    let row = quote!(#row_ident #arguments);
    let hash_key = Ident::new("__hash_key", Span::mixed_site());
    let to_row = match &model.row {
        None => quote!(#krate::__private::itself::<Self>(self)),
        Some(Row { fields, .. }) => {
            let fields = fields.iter().map(|field| {
                let ident = &field.ident;
                match field.mask {
                    None | Some(Mask::Skip) => quote!(#ident: ::core::clone::Clone::clone(&self.#ident)),
                    Some(Mask::Redact) => quote!(#ident: #krate::Redacted),
                    Some(Mask::Hash) => quote!(#ident: #krate::__private::hash(#hash_key, &self.#ident)),
                }
            });
            quote!(#row_ident { #(#fields,)* })
        }
    };
    // Else fields would have to be moved out, which a struct that has something to do at its end
    // does not allow, such as wiping a secret.
    let into_row = model.row.is_none().then(|| {
        quote! {
            #[inline]
            fn into_row(self, _: ::core::option::Option<&#krate::HashKey>) -> Self { self }
        }
    });
    let hash_key = if model.hashes() { quote!(#hash_key) } else { quote!(_) };
    let parts = key
        .iter()
        .map(|KeyField { ident, ty, .. }| quote!(<#ty as #krate::key::KeyColumn>::to_key(&__row.#ident)));
    let row_key = match key.len() {
        1 => quote!(#(#parts)*),
        _ => quote!(#krate::key::Key::composite([#(#parts,)*])),
    };
    let keyed_row = if key.is_empty() { quote!(_) } else { quote!(__row) };
    let about_columns = columns(model, &row);
    let about_delivery = delivery(model);
    let about_versions = versions(model, &row);
    quote! {
        #[automatically_derived]
        impl #parameters #krate::model::Model for #ident #arguments #bounds {
            const NAME: &'static ::core::primitive::str = #name;
            #kind
            const KEY_COLUMNS: &'static [&'static ::core::primitive::str] = &[#(#key_columns,)*];
            const OPERATIONS: &'static [#krate::event::Operation] = &[#(#krate::event::Operation::#operations,)*];
            type Row = #row;
            type Event = #event;

            #[inline]
            fn to_row(&self, #hash_key: ::core::option::Option<&#krate::HashKey>) -> #row {
                #to_row
            }

            #into_row

            #[inline]
            fn key(#keyed_row: &#row) -> #krate::key::Key {
                #row_key
            }

            #about_columns
            #about_delivery
            #about_versions
        }
    }
}

/// What of [`Model`](trait@Model) is about how its events travel, where it says so.
fn delivery(model: &Model) -> TokenStream {
    let Model { krate, topic, qos, expires, before, persistence, park, .. } = model;
    let scope = match model.reach {
        Reach::Everywhere => None,
        Reach::Local => Some(quote!(LOCAL)),
        Reach::Remote => Some(quote!(REMOTE)),
    };
    let scope = scope.map(|scope| quote!(const SCOPE: #krate::Scope = #krate::Scope::#scope;));
    let topic = topic.as_ref().map(|topic| quote!(const TOPIC: &'static ::core::primitive::str = #topic;));
    let expires = expires.map(|Millis(millis)| {
        quote! {
            const EXPIRES: ::core::option::Option<::core::time::Duration> =
                ::core::option::Option::Some(::core::time::Duration::from_millis(#millis));
        }
    });
    let hashes = model.hashes().then(|| {
        quote!(
            const HASHES: ::core::primitive::bool = true;
        )
    });
    let level = |qos: u8| match qos {
        0 => quote!(#krate::emit::QoS::AtMostOnce),
        1 => quote!(#krate::emit::QoS::AtLeastOnce),
        _ => quote!(#krate::emit::QoS::ExactlyOnce),
    };
    let of_operations = qos.operations.iter().map(|(operation, qos)| {
        let (operation, qos) = (operation.variant_ident(), level(*qos));
        quote!(#krate::event::Operation::#operation => #qos,)
    });
    let of_model = level(qos.model);
    let says_qos = qos.model != 1 || !qos.operations.is_empty();
    let qos = says_qos.then(|| {
        quote! {
            #[inline]
            fn qos(__operation: #krate::event::Operation) -> #krate::emit::QoS {
                match __operation { #(#of_operations)* _ => #of_model, }
            }
        }
    });
    let before = before.map(|before| {
        let before = match before {
            Before::Row => quote!(Row),
            Before::Changed => quote!(Changed),
        };
        quote!(
            const BEFORE: #krate::model::Before = #krate::model::Before::#before;
        )
    });
    let persistence = match persistence {
        Persistence::Buffered => None,
        Persistence::Queued => Some(quote!(Queued)),
        Persistence::Durable => Some(quote!(Durable)),
    };
    let persistence = persistence.map(
        |place| quote!(const PERSISTENCE: #krate::emit::Persistence = #krate::emit::Persistence::#place;),
    );
    let park = park.then(|| {
        quote!(
            const PARK: ::core::primitive::bool = true;
        )
    });
    quote!(#scope #topic #expires #before #persistence #park #hashes #qos)
}

/// What of [`Model`](trait@Model) is about versions, where it says so.
fn versions(model: &Model, row: &TokenStream) -> TokenStream {
    let Model { krate, version, earlier, .. } = model;
    let number = (*version > 1).then(|| quote!(const VERSION: ::core::primitive::u32 = #version;));
    if earlier.is_empty() {
        return quote!(#number);
    }
    // Decided with the attribute: there are not more of them than versions before this one.
    let earliest = version.saturating_sub(u32::try_from(earlier.len()).unwrap_or_default());
    let arms = earlier.iter().zip(earliest..).enumerate().map(|(place, (first, version))| {
        let later: Vec<&Path> = earlier[place..].iter().skip(1).collect();
        let next = later.first().map_or_else(|| row.clone(), |next| quote!(#next));
        let next = crate_path::located(&next, first.span());
        let read = quote_spanned!(first.span()=> #krate::__private::upcast::<#first, #next>(__row));
        let to_the_present = later.iter().enumerate().map(|(place, from)| {
            let to = later.get(place + 1).map_or_else(|| row.clone(), |next| quote!(#next));
            let to = crate_path::located(&to, from.span());
            quote_spanned!(from.span()=> .map(<#to as ::core::convert::From<#from>>::from))
        });
        quote!(#version => #read #(#to_the_present)*,)
    });
    quote! {
        #number
        const EARLIEST: ::core::primitive::u32 = #earliest;

        #[inline]
        fn read_row(
            __version: ::core::primitive::u32,
            __row: &#krate::__private::RawValue,
        ) -> ::core::result::Result<#row, #krate::__private::DecodeError> {
            match __version {
                #(#arms)*
                _ => #krate::__private::read_row::<Self>(__version, __row),
            }
        }
    }
}

/// Where its events may go at most, as traits.
fn reach(model: &Model) -> TokenStream {
    let Model { krate, ident, generics, reach, .. } = model;
    let (parameters, arguments, bounds) = generics.split_for_impl();
    let local = (*reach != Reach::Remote).then(|| quote!(EmitsLocally));
    let remote = (*reach != Reach::Local).then(|| quote!(EmitsRemotely));
    local
        .into_iter()
        .chain(remote)
        .map(|goes| {
            quote! {
                #[automatically_derived]
                impl #parameters #krate::model::#goes for #ident #arguments #bounds {}
            }
        })
        .collect()
}

fn emits(model: &Model, operation: Operation) -> TokenStream {
    let Model { krate, ident, generics, .. } = model;
    let (parameters, arguments, bounds): (ImplGenerics<'_>, TypeGenerics<'_>, Option<&WhereClause>) =
        generics.split_for_impl();
    let event = model.event_type();
    let (variant, body) = (operation.variant_ident(), operation.body_ident());
    let (wrapped, unwrapped) = match &model.event {
        Some(_) => (quote!(__body), quote!(::core::option::Option::Some(__event))),
        None => {
            let event = model.event_ident();
            let otherwise =
                (model.operations.len() > 1).then(|| quote! { _ => ::core::option::Option::None, });
            let unwrapped = quote! {
                match __event {
                    #event::#body(__body) => ::core::option::Option::Some(__body),
                    #otherwise
                }
            };
            (quote!(#event::#body(__body)), unwrapped)
        }
    };
    quote! {
        #[automatically_derived]
        impl #parameters #krate::model::Emits<#krate::model::operation::#variant> for #ident #arguments #bounds {
            #[inline]
            fn wrap(__body: #krate::model::#body<Self>) -> #event {
                #wrapped
            }

            #[inline]
            fn unwrap(__event: &#event) -> ::core::option::Option<&#krate::model::#body<Self>> {
                #unwrapped
            }
        }
    }
}

/// Its entry among the program's models; a generic one is as many models as it has types.
fn registration(model: &Model) -> Option<TokenStream> {
    let Model { krate, ident, generics, table, .. } = model;
    let table = match table {
        Some(table) => quote!(::core::option::Option::Some(#table)),
        None => quote!(::core::option::Option::None),
    };
    generics.params.is_empty().then(|| {
        quote! {
            #krate::__private::inventory::submit! {
                #krate::__private::RegisteredModel::of::<#ident>(::core::module_path!(), #table)
            }
        }
    })
}

impl Model {
    /// Its parameters without bounds, as an alias has them.
    fn parameters(&self) -> TokenStream {
        let mut generics = self.generics.clone();
        for parameter in generics.type_params_mut() {
            parameter.bounds.clear();
            parameter.colon_token = None;
        }
        generics.where_clause = None;
        quote!(#generics)
    }

    fn hashes(&self) -> bool {
        self.row.iter().flat_map(|row| &row.fields).any(|field| field.mask == Some(Mask::Hash))
    }

    fn row_ident(&self) -> Ident {
        format_ident!("{}Row", self.ident.unraw(), span = self.ident.span())
    }

    fn event_ident(&self) -> Ident {
        format_ident!("{}Event", self.ident.unraw(), span = self.ident.span())
    }

    /// `UserEvent`, or of an event that is no row what all of them are.
    fn event_type(&self) -> TokenStream {
        let Self { krate, generics, .. } = self;
        let (_, arguments, _) = generics.split_for_impl();
        let event = self.event_ident();
        match self.event {
            Some(_) => quote!(#krate::model::Created<Self>),
            None => quote!(#event #arguments),
        }
    }

    /// `None` for a model that is never updated.
    fn diff_ident(&self) -> Option<Ident> {
        let updated = self.operations.iter().any(|operation| operation.is_update());
        updated.then(|| format_ident!("{}Diff", self.ident.unraw(), span = self.ident.span()))
    }

    fn alias_ident(&self, operation: Operation) -> Ident {
        format_ident!("{}{}", self.ident.unraw(), operation.body(), span = self.ident.span())
    }
}

impl Operation {
    fn variant_ident(self) -> Ident {
        Ident::new(self.variant(), Span::call_site())
    }

    fn body_ident(self) -> Ident {
        Ident::new(self.body(), Span::call_site())
    }
}

//! Prints what was decided.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote};
use syn::Ident;
use syn::ext::IdentExt;

use super::model::{Column, KeyField, Model, Operation, Reach, Row};

pub(crate) fn expand(model: &Model) -> TokenStream {
    let row = row(model);
    let events = events(model);
    let diff = diff(model);
    let implementation = implementation(model);
    let emits = model.operations.iter().map(|operation| emits(model, *operation));
    quote! {
        #row
        #events
        #diff
        #implementation
        #(#emits)*
    }
}

/// `UserRow`, generated or as another name of the model.
fn row(model: &Model) -> TokenStream {
    let Model { krate, vis, ident, .. } = model;
    let row_ident = model.row_ident();
    let Some(Row { attributes, names_serde, fields }) = &model.row else {
        let doc =
            format!("What listeners of [`{ident}`] are handed: the model itself, since it skips no field.");
        return quote! {
            #[doc = #doc]
            #[allow(dead_code)]
            #vis type #row_ident = #ident;
        };
    };
    let serde_path = quote!(#krate::__private::serde).to_string().replace(' ', "");
    let serde_path = (!names_serde).then(|| quote!(#[serde(crate = #serde_path)]));
    let doc =
        format!("What listeners of [`{ident}`] are handed: the model without the fields that it skips.");
    let fields = fields.iter().map(|field| {
        let (attributes, vis, ident, ty) = (&field.attributes, &field.vis, &field.ident, &field.ty);
        quote! { #(#attributes)* #vis #ident: #ty }
    });
    quote! {
        #[doc = #doc]
        #[derive(
            ::core::fmt::Debug, ::core::clone::Clone, ::core::cmp::PartialEq,
            #krate::__private::serde::Serialize, #krate::__private::serde::Deserialize,
        )]
        #serde_path
        #(#attributes)*
        #vis struct #row_ident { #(#fields,)* }
    }
}

/// `UserCreated` and the others, and `UserEvent`.
fn events(model: &Model) -> TokenStream {
    let Model { krate, vis, ident, operations, .. } = model;
    let event = model.event_ident();
    let aliases = operations.iter().map(|operation| {
        let alias = model.alias_ident(*operation);
        let body = operation.body_ident();
        let doc = format!("The event of `{}` on [`{ident}`].", operation.word());
        quote! {
            #[doc = #doc]
            #[allow(dead_code)]
            #vis type #alias = #krate::model::#body<#ident>;
        }
    });
    let variants = operations.iter().map(|operation| {
        let body = operation.body_ident();
        let doc = format!("By `{}`.", operation.word());
        quote! { #[doc = #doc] #body(#krate::model::#body<#ident>) }
    });
    let to_body = operations.iter().map(|operation| {
        let (variant, body) = (operation.variant_ident(), operation.body_ident());
        quote! { Self::#body(body) => #krate::model::BodyRef::#variant(body) }
    });
    let from_body = operations.iter().map(|operation| {
        let (variant, body) = (operation.variant_ident(), operation.body_ident());
        quote! { #krate::model::Body::#variant(body) => ::core::option::Option::Some(Self::#body(body)) }
    });
    let rest =
        (operations.len() < Operation::ALL.len()).then(|| quote! { _ => ::core::option::Option::None });
    let single = operations.iter().all(|operation| !operation.is_bulk()).then(|| {
        quote! {
            #[automatically_derived]
            impl #krate::model::SingleRow for #event {}
        }
    });
    let doc = format!("The events of [`{ident}`].");
    quote! {
        #(#aliases)*

        #[doc = #doc]
        #[derive(::core::clone::Clone)]
        #vis enum #event { #(#variants,)* }

        #[automatically_derived]
        impl #krate::model::EventBody for #event {
            type Model = #ident;
            const OPERATION: ::core::option::Option<#krate::event::Operation> = ::core::option::Option::None;

            fn of(event: &Self) -> ::core::option::Option<&Self> {
                ::core::option::Option::Some(event)
            }
        }

        #[automatically_derived]
        impl #krate::model::ModelEvent<#ident> for #event {
            fn body(&self) -> #krate::model::BodyRef<'_, #ident> {
                match self { #(#to_body,)* }
            }

            fn from_body(body: #krate::model::Body<#ident>) -> ::core::option::Option<Self> {
                match body { #(#from_body,)* #rest }
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
            #vis fn #ident(&self) -> ::core::option::Option<#krate::diff::Change<'e, #ty>> {
                self.0.column(#place, |row| &row.#ident)
            }
        }
    });
    let doc = format!("What an update of [`{ident}`] changed, column by column.");
    Some(quote! {
        #[doc = #doc]
        #[derive(::core::fmt::Debug, ::core::clone::Clone, ::core::marker::Copy)]
        #vis struct #diff<'e>(#krate::diff::Diff<'e, #ident>);

        #[allow(dead_code, clippy::must_use_candidate, clippy::should_implement_trait, clippy::wrong_self_convention)]
        impl<'e> #diff<'e> { #(#methods)* }

        #[automatically_derived]
        impl<'e> ::core::ops::Deref for #diff<'e> {
            type Target = #krate::diff::Diff<'e, #ident>;

            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }
    })
}

/// What of [`Model`](trait@Model) is about columns.
fn columns(model: &Model, row: &Ident) -> TokenStream {
    let Model { krate, columns, .. } = model;
    let described = columns.iter().map(|Column { ident, wire_name, place, .. }| {
        let field = ident.unraw().to_string();
        let place = match place {
            Some(place) => quote!(::core::option::Option::Some(#place)),
            None => quote!(::core::option::Option::None),
        };
        quote!(#krate::columns::Column::new(#field, #wire_name, #place))
    });
    let described = quote! {
        const COLUMNS: &'static [#krate::columns::Column] = &[#(#described,)*];
    };
    let Some(diff) = model.diff_ident() else {
        return quote! {
            #described
            type Diff<'e> = #krate::diff::Diff<'e, Self>;

            fn diff<'e>(diff: #krate::diff::Diff<'e, Self>) -> #krate::diff::Diff<'e, Self> {
                diff
            }

            fn differing(_: &#row, _: &#row) -> #krate::columns::Columns {
                #krate::columns::Columns::NONE
            }
        };
    };
    let [before, after] = ["before", "after"].map(|name| Ident::new(name, Span::mixed_site()));
    // With its type, so that one that cannot be compared is refused there.
    let flags = columns.iter().map(
        |Column { ident, ty, .. }| quote!(#krate::__private::differ::<#ty>(&#before.#ident, &#after.#ident)),
    );
    quote! {
        #described
        type Diff<'e> = #diff<'e>;

        fn diff<'e>(diff: #krate::diff::Diff<'e, Self>) -> #diff<'e> {
            #diff(diff)
        }

        fn differing(#before: &#row, #after: &#row) -> #krate::columns::Columns {
            #krate::columns::Columns::from_flags([#(#flags,)*])
        }
    }
}

fn implementation(model: &Model) -> TokenStream {
    let Model { krate, ident, name, key, .. } = model;
    let event = model.event_ident();
    let operations = model.operations.iter().map(|operation| operation.variant_ident());
    let key_columns = key.iter().map(|field| &field.wire_name);
    // Not by its other name: where that is taken, one error is enough.
    let row = if model.row.is_some() { model.row_ident() } else { ident.clone() };
    let to_row = match &model.row {
        None => quote!(#krate::__private::itself::<Self>(self)),
        Some(Row { fields, .. }) => {
            let fields = fields.iter().map(|field| &field.ident);
            quote!(#row { #(#fields: ::core::clone::Clone::clone(&self.#fields),)* })
        }
    };
    let parts = key
        .iter()
        .map(|KeyField { ident, ty, .. }| quote!(<#ty as #krate::key::KeyColumn>::to_key(&row.#ident)));
    let row_key = match key.len() {
        1 => quote!(#(#parts)*),
        _ => quote!(#krate::key::Key::composite([#(#parts,)*])),
    };
    let about_columns = columns(model, &row);
    let local = quote! {
        #[automatically_derived]
        impl #krate::model::EmitsLocally for #ident {}
    };
    let remote = quote! {
        #[automatically_derived]
        impl #krate::model::EmitsRemotely for #ident {}
    };
    let (scope, reach) = match model.reach {
        Reach::Everywhere => (None, quote!(#local #remote)),
        Reach::Local => (Some(quote!(LOCAL)), local),
        Reach::Remote => (Some(quote!(REMOTE)), remote),
    };
    let scope = scope.map(|scope| quote!(const SCOPE: #krate::Scope = #krate::Scope::#scope;));
    quote! {
        #[automatically_derived]
        impl #krate::model::Model for #ident {
            const NAME: &'static ::core::primitive::str = #name;
            const KEY_COLUMNS: &'static [&'static ::core::primitive::str] = &[#(#key_columns,)*];
            const OPERATIONS: &'static [#krate::event::Operation] = &[#(#krate::event::Operation::#operations,)*];
            #scope
            type Row = #row;
            type Event = #event;

            fn to_row(&self) -> #row {
                #to_row
            }

            fn key(row: &#row) -> #krate::key::Key {
                #row_key
            }

            #about_columns
        }

        #reach
    }
}

fn emits(model: &Model, operation: Operation) -> TokenStream {
    let Model { krate, ident, .. } = model;
    let event = model.event_ident();
    let (variant, body) = (operation.variant_ident(), operation.body_ident());
    let otherwise = (model.operations.len() > 1).then(|| quote! { _ => ::core::option::Option::None, });
    quote! {
        #[automatically_derived]
        impl #krate::model::Emits<#krate::model::operation::#variant> for #ident {
            fn wrap(body: #krate::model::#body<Self>) -> #event {
                #event::#body(body)
            }

            fn unwrap(event: &#event) -> ::core::option::Option<&#krate::model::#body<Self>> {
                match event {
                    #event::#body(body) => ::core::option::Option::Some(body),
                    #otherwise
                }
            }
        }
    }
}

impl Model {
    fn row_ident(&self) -> Ident {
        format_ident!("{}Row", self.ident.unraw(), span = self.ident.span())
    }

    fn event_ident(&self) -> Ident {
        format_ident!("{}Event", self.ident.unraw(), span = self.ident.span())
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

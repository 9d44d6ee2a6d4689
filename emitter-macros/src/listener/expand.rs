//! Prints what was decided: one registration, which calls into ordinary functions.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Ident, ReturnType, Type};

use super::filter::expand as filter;
use super::model::{Hears, Listener, Parameter};
use crate::crate_path;

pub(crate) fn expand(listener: &Listener) -> TokenStream {
    let Listener { krate, function, event, model, .. } = listener;
    let name = function.unraw().to_string();
    let hears = match listener.hears {
        Hears::Local => quote!(Local),
        Hears::Everything => quote!(Everything),
        Hears::Remote => quote!(Remote),
    };
    let prepare = prepare(listener);
    let wrong_model = format!(
        "the listener's model is \"{}\", but its event belongs to another model: make them agree",
        model.value()
    );
    let agree = quote_spanned! {model.span()=>
        ::core::assert!(#krate::__private::same_model(#krate::__private::wanted::<#event>().model, #model), #wrong_model)
    };
    let checks = filter::checks(&listener.filters, krate, event);
    quote! {
        const _: () = {
            const _: () = #agree;
            #checks

            #krate::__private::inventory::submit! {
                #krate::__private::Registration {
                    name: #name,
                    model: #krate::__private::wanted::<#event>().model,
                    operation: #krate::__private::wanted::<#event>().operation,
                    hears: #krate::__private::Hears::#hears,
                    defined_at: ::core::concat!(::core::file!(), ":", ::core::line!()),
                    prepare: #prepare,
                }
            }
        };
    }
}

/// Takes the states, and makes the handler that calls the function. A closure, for the name of a
/// function would hide a listener of the same name.
fn prepare(listener: &Listener) -> TokenStream {
    let Listener { krate, function, event, parameters, output, .. } = listener;
    // Variables of ours are of mixed site, so that they hide no name of the user's.
    let variable = |name: &str, at: Span| Ident::new(name, Span::mixed_site().located_at(at));
    let state = |index: usize, ty: &Type| variable(&format!("state_{index}"), ty.span());
    let states = variable("states", Span::call_site());
    let event_variable = variable("event", event.span());
    let takes = parameters.iter().enumerate().filter_map(|(index, parameter)| match parameter {
        Parameter::Event => None,
        Parameter::State(ty) => {
            let state = state(index, ty);
            Some(quote_spanned! {ty.span()=> let #state = #states.get::<#ty>()?; })
        }
    });
    let arguments = parameters.iter().enumerate().map(|(index, parameter)| match parameter {
        Parameter::Event => quote!(#event_variable),
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
    let constructor = Ident::new(if listener.is_async { "from_async" } else { "from_blocking" }, output);
    let located = crate_path::located(krate, output);
    let handler = quote_spanned! {output=>
        #located::__private::Handler::#constructor::<#event, _, _>(move |#event_variable| #function(#(#arguments),*))
    };
    let filtered =
        filter::expand(&listener.filters, krate, event).map(|filter| quote!(.filtered::<#event>(#filter)));
    quote! {
        |#states: &#krate::__private::States| {
            #(#takes)*
            ::core::result::Result::Ok(#handler #filtered)
        }
    }
}

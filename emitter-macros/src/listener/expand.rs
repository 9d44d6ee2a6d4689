//! Prints what was decided: one registration, which calls into ordinary functions.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Ident, ReturnType};

use super::model::{Hears, Listener, Parameter};

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
    let check = quote_spanned! {model.span()=>
        const _: () = ::core::assert!(
            #krate::__private::same_model(#krate::__private::model_name::<#event>(), #model),
            #wrong_model
        );
    };
    quote! {
        const _: () = {
            #check

            #krate::__private::inventory::submit! {
                #krate::__private::Registration {
                    name: #name,
                    model: #krate::__private::model_name::<#event>(),
                    operation: <#event as #krate::model::EventBody>::OPERATION,
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
    // Variables of ours are of mixed site: they hide no name of the user's.
    let variable = |name: &str| Ident::new(name, Span::mixed_site());
    let state = |index: usize| variable(&format!("state_{index}"));
    let (states, event_variable) = (variable("states"), variable("event"));
    let takes = parameters.iter().enumerate().filter_map(|(index, parameter)| match parameter {
        Parameter::Event => None,
        Parameter::State(ty) => {
            let state = state(index);
            Some(quote_spanned! {ty.span()=> let #state = #states.get::<#ty>()?; })
        }
    });
    let arguments = parameters.iter().enumerate().map(|(index, parameter)| match parameter {
        Parameter::Event => quote!(#event_variable),
        Parameter::State(_) => {
            let state = state(index);
            quote!(::core::clone::Clone::clone(&#state))
        }
    });
    // The return type is checked where the user wrote it.
    let output_check = match output {
        ReturnType::Default => None,
        ReturnType::Type(_, ty) => Some(quote_spanned! {ty.span()=> #krate::__private::is_outcome::<#ty>(); }),
    };
    let constructor = if listener.is_async { quote!(from_async) } else { quote!(from_blocking) };
    quote! {
        |#states: &#krate::__private::States| {
            #output_check
            #(#takes)*
            ::core::result::Result::Ok(#krate::__private::Handler::#constructor(
                move |#event_variable: #krate::Event<#event>| #function(#(#arguments),*),
            ))
        }
    }
}

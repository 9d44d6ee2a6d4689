//! `#[listener]`.

use proc_macro2::TokenStream;
use quote::quote;

use crate::errors::or_compile_errors;

mod attr;
mod expand;
mod filter;
mod model;

/// The function stays as it is, mistake or not, so that one mistake is one error. One that takes a
/// row for an event goes: of its signature alone the compiler would say two more.
pub(crate) fn attribute(attribute: TokenStream, function: &TokenStream) -> TokenStream {
    let listener = model::Listener::new(attribute, function.clone());
    if let Some(mistake) = listener.as_ref().ok().and_then(model::Listener::row_for_event) {
        return mistake;
    }
    let registration = or_compile_errors(listener.map(|listener| expand::expand(&listener)));
    quote! {
        // Events and states come by value, though few listeners consume them.
        #[allow(clippy::needless_pass_by_value, clippy::unused_async)]
        #function
        #registration
    }
}

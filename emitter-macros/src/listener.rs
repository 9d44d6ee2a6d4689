//! `#[listener]`.

use proc_macro2::TokenStream;
use quote::quote;

use crate::errors::or_compile_errors;

mod attr;
mod expand;
mod filter;
mod model;

/// The function stays as it is, mistake or not, so that one mistake is one error.
pub(crate) fn attribute(attribute: TokenStream, function: &TokenStream) -> TokenStream {
    let registration = or_compile_errors(
        model::Listener::new(attribute, function.clone()).map(|listener| expand::expand(&listener)),
    );
    quote! {
        // Events and states come by value, though few listeners consume them.
        #[allow(clippy::needless_pass_by_value)]
        #function
        #registration
    }
}

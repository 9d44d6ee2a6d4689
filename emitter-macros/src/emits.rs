//! `#[derive(Emits)]`.

use proc_macro2::TokenStream;

use crate::errors::or_compile_errors;

mod attr;
mod expand;
mod model;

pub(crate) fn derive(input: TokenStream) -> TokenStream {
    or_compile_errors(
        syn::parse2(input).and_then(|input| model::Model::new(&input)).map(|model| expand::expand(&model)),
    )
}

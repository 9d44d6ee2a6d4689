//! Where the expansion finds the framework.

use proc_macro_crate::{FoundCrate, crate_name};
use proc_macro2::{Span, TokenStream, TokenTree};
use quote::quote;
use syn::{Ident, Path};

/// The path that the user gave, else that of the dependency: `emitter-diesel`, which re-exports
/// everything, or `emitter-core` in a service without a database.
pub(crate) fn core(given: Option<&Path>) -> TokenStream {
    if let Some(path) = given {
        return quote!(#path);
    }
    let name = ["emitter-diesel", "emitter-core"].into_iter().find_map(|package| match crate_name(package) {
        // Both crates name themselves with `extern crate self as …`.
        Ok(FoundCrate::Itself) => Some(package.replace('-', "_")),
        Ok(FoundCrate::Name(name)) => Some(name),
        Err(_) => None,
    });
    let name = Ident::new(&name.unwrap_or_else(|| "emitter_diesel".to_owned()), Span::call_site());
    quote!(::#name)
}

/// Whether that is `emitter-core`, which knows no databases.
pub(crate) fn is_core(given: Option<&Path>) -> bool {
    match given {
        Some(path) => path.segments.last().is_some_and(|last| last.ident == "emitter_core"),
        None => crate_name("emitter-diesel").is_err() && crate_name("emitter-core").is_ok(),
    }
}

/// The same path, for mistakes that shall be told at `place`.
pub(crate) fn located(path: &TokenStream, place: Span) -> TokenStream {
    let locate = |mut token: TokenTree| {
        token.set_span(token.span().located_at(place));
        token
    };
    path.clone().into_iter().map(locate).collect()
}

//! All mistakes of one macro call, told at once.

use std::cell::RefCell;

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::meta::ParseNestedMeta;

/// Collects errors; [`finish`](Self::finish) gives them back as one.
#[derive(Default)]
pub(crate) struct Errors(RefCell<Vec<syn::Error>>);

impl Errors {
    /// A mistake at these tokens.
    pub(crate) fn at(&self, tokens: impl ToTokens, message: impl std::fmt::Display) {
        self.push(syn::Error::new_spanned(tokens, message));
    }

    pub(crate) fn push(&self, error: syn::Error) {
        self.0.borrow_mut().push(error);
    }

    /// `Ok` if there was none.
    pub(crate) fn finish(self) -> syn::Result<()> {
        let all = self.0.into_inner().into_iter().reduce(|mut all, error| {
            all.combine(error);
            all
        });
        all.map_or(Ok(()), Err)
    }
}

/// The expansion, or the errors as `compile_error!`s.
pub(crate) fn or_compile_errors(expansion: syn::Result<TokenStream>) -> TokenStream {
    expansion.unwrap_or_else(|error| error.to_compile_error())
}

/// Goes past the value of an entry that is not known, so that the entries after it are read too.
pub(crate) fn skip_value(meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
    if meta.input.peek(syn::Token![=]) {
        meta.value()?.parse::<syn::Expr>()?;
    } else if meta.input.peek(syn::token::Paren) {
        let content;
        syn::parenthesized!(content in meta.input);
        content.parse::<TokenStream>()?;
    }
    Ok(())
}

/// ``did you mean `create`?`` for a word that is close to a known one.
pub(crate) fn did_you_mean(word: &str, known: &[&str]) -> String {
    let closest = known.iter().map(|candidate| (distance(word, candidate), candidate)).min();
    match closest {
        Some((distance, candidate)) if distance <= candidate.len().min(word.len()) / 3 => {
            format!("; did you mean `{candidate}`?")
        }
        _ => String::new(),
    }
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let known = ["create", "update", "allow_remote"];
        assert_eq!(did_you_mean("craete", &known), "; did you mean `create`?");
        assert_eq!(did_you_mean("allow_remotes", &known), "; did you mean `allow_remote`?");
        assert_eq!(did_you_mean("replace", &known), "");
    }
}

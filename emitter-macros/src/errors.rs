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

    /// Takes over those of another collection.
    pub(crate) fn take(&self, other: Self) {
        self.0.borrow_mut().extend(other.0.into_inner());
    }

    /// Whether there was none so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
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

/// Goes on to the next entry, so that a mistake in one does not hide those in the others.
pub(crate) fn skip_value(meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
    while !meta.input.is_empty() && !meta.input.peek(syn::Token![,]) {
        meta.input.parse::<proc_macro2::TokenTree>()?;
    }
    Ok(())
}

/// A word that stands alone.
pub(crate) fn flag(meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
    if meta.input.peek(syn::Token![=]) || meta.input.peek(syn::token::Paren) {
        let path = &meta.path;
        let word = quote::quote!(#path).to_string();
        return Err(syn::Error::new_spanned(
            path,
            format_args!("`{word}` takes no value: write `{word}` alone"),
        ));
    }
    Ok(())
}

/// What follows `word =`; `example` is a value.
pub(crate) fn value<'a>(
    meta: &ParseNestedMeta<'a>,
    example: &str,
) -> syn::Result<syn::parse::ParseStream<'a>> {
    if !meta.input.peek(syn::Token![=]) {
        let path = &meta.path;
        let word = quote::quote!(#path).to_string();
        return Err(syn::Error::new_spanned(
            path,
            format_args!("write its value, as in `{word} = {example}`"),
        ));
    }
    meta.value()
}

/// The same mistake in words of ours, where it is one of the parser's: a list that holds no words.
pub(crate) fn no_word(error: syn::Error, advice: impl std::fmt::Display) -> syn::Error {
    let own = error.to_string().starts_with("unexpected ");
    if own { syn::Error::new(error.span(), advice) } else { error }
}

/// What is said of a word that is not known: the word that was meant, or else all of them.
pub(crate) fn unknown(word: &str, place: &str, words: &[&str], all: &str) -> String {
    match did_you_mean(word, words) {
        hint if hint.is_empty() => format!("`{word}` is not known {place}\n{all}"),
        hint => format!("`{word}` is not known {place}{hint}"),
    }
}

/// ``did you mean `create`?`` for a word that is close to a known one.
fn did_you_mean(word: &str, known: &[&str]) -> String {
    // Of two as close, the one of the same length: `craete` is `create`, not `crate`.
    let closest =
        known.iter().map(|known| (distance(word, known), known.len().abs_diff(word.len()), known)).min();
    match closest {
        Some((distance, _, candidate)) if distance <= candidate.len().min(word.len()) / 3 => {
            format!("; did you mean `{candidate}`?")
        }
        _ => String::new(),
    }
}

/// How many letters have to be added, left out, replaced or exchanged with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let exchanged = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            let exchanged = if exchanged { rows[i - 2][j - 2] + 1 } else { usize::MAX };
            row.push(replaced.min(exchanged).min(rows[i - 1][j] + 1).min(row[j - 1] + 1));
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let known = ["crate", "create", "update", "allow_remote"];
        assert_eq!(did_you_mean("craete", &known), "; did you mean `create`?");
        assert_eq!(did_you_mean("allow_remotes", &known), "; did you mean `allow_remote`?");
        assert_eq!(did_you_mean("replace", &known), "");
    }
}

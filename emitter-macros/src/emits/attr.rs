//! Reads `#[emits(…)]`, and what it needs of `#[diesel(…)]` and `#[serde(…)]`.

use syn::meta::ParseNestedMeta;
use syn::spanned::Spanned;
use syn::{Attribute, Ident, LitStr, Path, Token};

use super::model::Operation;
use crate::errors::{Errors, did_you_mean};

/// What `#[emits(…)]` on the struct says.
#[derive(Default)]
pub(crate) struct StructAttr {
    pub(crate) model: Option<LitStr>,
    pub(crate) operations: Vec<(Operation, Ident)>,
    pub(crate) key: Option<Vec<Ident>>,
    pub(crate) krate: Option<Path>,
}

/// What `#[emits(…)]` on a field says.
#[derive(Default)]
pub(crate) struct FieldAttr {
    pub(crate) skip: bool,
}

const STRUCT_WORDS: [&str; 11] = [
    "create", "create_many", "update", "update_many", "upsert", "delete", "delete_many", "all", "model", "key", "crate",
];

impl StructAttr {
    pub(crate) fn parse(attributes: &[Attribute], errors: &Errors) -> Self {
        let mut parsed = Self::default();
        for_each_word(attributes, "emits", errors, |meta| parsed.word(meta, errors));
        parsed
    }

    fn word(&mut self, meta: &ParseNestedMeta<'_>, errors: &Errors) -> syn::Result<()> {
        let Some(word) = meta.path.get_ident() else {
            return Err(meta.error("expected a single word, such as `create`"));
        };
        let name = word.to_string();
        match name.as_str() {
            "model" => once(&mut self.model, meta, errors, |meta| meta.value()?.parse()),
            "crate" => once(&mut self.krate, meta, errors, |meta| meta.value()?.call(Path::parse_mod_style)),
            "key" => once(&mut self.key, meta, errors, idents),
            "all" => {
                self.operations.extend(Operation::ALL.map(|operation| (operation, word.clone())));
                Ok(())
            }
            name => match Operation::from_word(name) {
                Some(operation) => {
                    if self.operations.iter().any(|(other, _)| *other == operation) {
                        errors.at(word, format_args!("`{name}` is written twice; once is enough"));
                    }
                    self.operations.push((operation, word.clone()));
                    Ok(())
                }
                None => Err(meta.error(format_args!(
                    "`{name}` is not known here{}\nknown are the operations `create`, `create_many`, `update`, `update_many`, \
                     `upsert`, `delete`, `delete_many`, `all`, and `model = \"…\"`, `key(…)`, `crate = …`",
                    did_you_mean(name, &STRUCT_WORDS)
                ))),
            },
        }
    }
}

impl FieldAttr {
    pub(crate) fn parse(attributes: &[Attribute], errors: &Errors) -> Self {
        let mut parsed = Self::default();
        for_each_word(attributes, "emits", errors, |meta| {
            if meta.path.is_ident("skip") {
                parsed.skip = true;
                return Ok(());
            }
            let word = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
            let hint = did_you_mean(&word, &["skip"]);
            Err(meta.error(format_args!("`{word}` is not known on a field{hint}\nknown is `skip`")))
        });
        parsed
    }
}

/// The columns of `#[diesel(primary_key(a, b))]`.
pub(crate) fn diesel_primary_key(attributes: &[Attribute]) -> Option<Vec<Ident>> {
    let mut key = None;
    lenient(attributes, "diesel", |meta| {
        if meta.path.is_ident("primary_key") {
            key = Some(idents(meta)?);
        } else {
            skip_value(meta)?;
        }
        Ok(())
    });
    key
}

/// What of serde's attributes decides names on the wire: `rename_all` of the struct.
pub(crate) fn serde_rename_all(attributes: &[Attribute]) -> Option<String> {
    serde_text(attributes, "rename_all")
}

/// `rename` of a field.
pub(crate) fn serde_rename(attributes: &[Attribute]) -> Option<String> {
    serde_text(attributes, "rename")
}

fn serde_text(attributes: &[Attribute], word: &str) -> Option<String> {
    let mut found = None;
    lenient(attributes, "serde", |meta| {
        if meta.path.is_ident(word) && meta.input.peek(Token![=]) {
            found = Some(meta.value()?.parse::<LitStr>()?.value());
        } else {
            skip_value(meta)?;
        }
        Ok(())
    });
    found
}

/// Runs `word` for each entry; an error ends one attribute and is kept.
fn for_each_word(
    attributes: &[Attribute],
    name: &str,
    errors: &Errors,
    mut word: impl FnMut(&ParseNestedMeta<'_>) -> syn::Result<()>,
) {
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident(name)) {
        if let Err(error) = attribute.parse_nested_meta(|meta| word(&meta)) {
            errors.push(error);
        }
    }
}

/// The same for attributes of others, whose mistakes are theirs to report.
fn lenient(attributes: &[Attribute], name: &str, word: impl FnMut(&ParseNestedMeta<'_>) -> syn::Result<()>) {
    for_each_word(attributes, name, &Errors::default(), word);
}

fn skip_value(meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
    if meta.input.peek(Token![=]) {
        meta.value()?.parse::<syn::Expr>()?;
    } else if meta.input.peek(syn::token::Paren) {
        let content;
        syn::parenthesized!(content in meta.input);
        content.parse::<proc_macro2::TokenStream>()?;
    }
    Ok(())
}

fn idents(meta: &ParseNestedMeta<'_>) -> syn::Result<Vec<Ident>> {
    if !meta.input.peek(syn::token::Paren) {
        return Err(meta.error("write the fields in parentheses, as in `key(user_id, role_id)`"));
    }
    let content;
    syn::parenthesized!(content in meta.input);
    let fields = content.parse_terminated(Ident::parse_any_ident, Token![,])?;
    Ok(fields.into_iter().collect())
}

/// `Ident::parse_any` under a name that reads well as a method path.
trait ParseAnyIdent: Sized {
    fn parse_any_ident(input: syn::parse::ParseStream<'_>) -> syn::Result<Self>;
}

impl ParseAnyIdent for Ident {
    fn parse_any_ident(input: syn::parse::ParseStream<'_>) -> syn::Result<Self> {
        <Self as syn::ext::IdentExt>::parse_any(input)
    }
}

fn once<T>(
    slot: &mut Option<T>,
    meta: &ParseNestedMeta<'_>,
    errors: &Errors,
    parse: impl FnOnce(&ParseNestedMeta<'_>) -> syn::Result<T>,
) -> syn::Result<()> {
    if slot.is_some() {
        errors.at_span(meta.path.span(), "written twice; once is enough");
    }
    *slot = Some(parse(meta)?);
    Ok(())
}

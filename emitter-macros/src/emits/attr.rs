//! Reads `#[emits(…)]`, and what it needs of `#[diesel(…)]` and `#[serde(…)]`.

use proc_macro2::TokenTree;
use syn::ext::IdentExt;
use syn::meta::ParseNestedMeta;
use syn::{Attribute, Ident, LitInt, LitStr, Path, Token};

use super::model::Operation;
use crate::errors::{Errors, flag, no_word, skip_value, unknown, value};
use crate::time::{Millis, some_time};

/// What `#[emits(…)]` on the struct says.
#[derive(Default)]
pub(crate) struct StructAttr {
    pub(crate) model: Option<LitStr>,
    /// With the word that enabled it.
    pub(crate) operations: Vec<(Operation, Path)>,
    pub(crate) key: Option<Vec<Ident>>,
    /// It is an event itself, and no row.
    pub(crate) event: Option<()>,
    /// What kind of event it is then.
    pub(crate) kind: Option<LitStr>,
    /// Its events stay here.
    pub(crate) local: Option<()>,
    /// Its events only go elsewhere.
    pub(crate) remote: Option<()>,
    pub(crate) version: Option<LitInt>,
    /// The types of earlier versions, oldest first.
    pub(crate) earlier: Option<Vec<Path>>,
    pub(crate) topic: Option<LitStr>,
    pub(crate) qos: Option<LitInt>,
    /// Of single operations, as in `delete(qos = 2)`.
    pub(crate) qos_of: Vec<(Operation, LitInt)>,
    pub(crate) expires: Option<Millis>,
    /// Updates carry the row before, whoever listens.
    pub(crate) before: Option<(Path, Before)>,
    /// Its events are written down with the rows.
    pub(crate) durable: Option<Path>,
    /// What comes after one of them that is given up waits for it.
    pub(crate) park: Option<Path>,
    /// Its events are written down after the commit.
    pub(crate) queued: Option<Path>,
    pub(crate) krate: Option<Path>,
}

/// How updates carry the row before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// The row.
    Row,
    /// What was in the columns that differ.
    Changed,
}

/// What `#[emits(…)]` on a field says.
#[derive(Default)]
pub(crate) struct FieldAttr {
    /// What listeners are handed instead of the value, if anything.
    pub(crate) mask: Option<Mask>,
    /// The word that says so.
    pub(crate) mask_word: Option<Path>,
    /// Why a field that looks secret may be in events.
    pub(crate) sensitive_ok: Option<LitStr>,
}

/// What becomes of a value that listeners may not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mask {
    /// The field is not there.
    Skip,
    /// The field is there, without its value.
    Redact,
    /// The field is a keyed hash of the value.
    Hash,
}

impl Mask {
    fn from_word(word: &str) -> Option<Self> {
        match word {
            "skip" => Some(Self::Skip),
            "redact" => Some(Self::Redact),
            "hash" => Some(Self::Hash),
            _ => None,
        }
    }
}

const FIELD_WORDS: [&str; 4] = ["skip", "redact", "hash", "sensitive_ok"];

const STRUCT_WORDS: [&str; 24] = [
    "create",
    "create_many",
    "update",
    "update_many",
    "upsert",
    "delete",
    "delete_many",
    "all",
    "model",
    "key",
    "local",
    "remote",
    "version",
    "earlier",
    "topic",
    "qos",
    "expires",
    "before",
    "durable",
    "park",
    "queued",
    "event",
    "kind",
    "crate",
];

const STRUCT_HELP: &str = "known are the operations `create`, `create_many`, `update`, `update_many`, `upsert`, `delete`, \
                           `delete_many`, `all`, and `model = \"…\"`, `key(…)`, `local`, `remote`, `version = …`, `earlier(…)`, \
                           `topic = \"…\"`, `qos = …`, `expires = \"…\"`, `before`, `before = \"changed\"`, `durable`, `queued`, `park`, `crate = …`, and \
                           for what is no row `event`, `kind = \"…\"`";

impl StructAttr {
    pub(crate) fn parse(attributes: &[Attribute], errors: &Errors) -> Self {
        let mut parsed = Self::default();
        for_each_word(attributes, "emits", errors, |meta| parsed.word(meta, errors));
        parsed
    }

    fn word(&mut self, meta: &ParseNestedMeta<'_>, errors: &Errors) -> syn::Result<()> {
        let name = word(meta);
        match name.as_str() {
            "model" => once(&mut self.model, meta, errors, text),
            "crate" => once(&mut self.krate, meta, errors, |meta| meta.value()?.call(Path::parse_mod_style)),
            "key" => once(&mut self.key, meta, errors, idents),
            "event" => once(&mut self.event, meta, errors, flag),
            "kind" => once(&mut self.kind, meta, errors, text),
            "local" => once(&mut self.local, meta, errors, flag),
            "remote" => once(&mut self.remote, meta, errors, flag),
            "version" => once(&mut self.version, meta, errors, version),
            "earlier" => once(&mut self.earlier, meta, errors, types),
            "topic" => once(&mut self.topic, meta, errors, text),
            "qos" => once(&mut self.qos, meta, errors, qos),
            "expires" => once(&mut self.expires, meta, errors, some_time),
            "before" => once(&mut self.before, meta, errors, |meta| Ok((meta.path.clone(), before(meta)?))),
            "durable" => once(&mut self.durable, meta, errors, |meta| flag(meta).map(|()| meta.path.clone())),
            "park" => once(&mut self.park, meta, errors, |meta| flag(meta).map(|()| meta.path.clone())),
            "queued" => once(&mut self.queued, meta, errors, |meta| flag(meta).map(|()| meta.path.clone())),
            "all" if self.operations.iter().any(|(_, path)| path.is_ident("all")) => {
                errors.at(&meta.path, "`all` is written twice; once is enough");
                Ok(())
            }
            "all" => {
                Operation::ALL.into_iter().for_each(|operation| self.operation(operation, meta, errors));
                Ok(())
            }
            name => match Operation::from_word(name) {
                Some(operation) => {
                    self.operation(operation, meta, errors);
                    self.options_of(operation, meta, errors)
                }
                None => {
                    errors.at(&meta.path, unknown(name, "here", &STRUCT_WORDS, STRUCT_HELP));
                    skip_value(meta)
                }
            },
        }
    }

    fn operation(&mut self, operation: Operation, meta: &ParseNestedMeta<'_>, errors: &Errors) {
        let words =
            self.operations.iter().find(|(other, _)| *other == operation).map(|(_, path)| word_of(path));
        match words.as_deref() {
            None => self.operations.push((operation, meta.path.clone())),
            Some("all") => {
                errors.at(&meta.path, format_args!("`all` includes `{}`: leave one of them out", word(meta)));
            }
            Some(other) if meta.path.is_ident("all") => {
                errors.at(&meta.path, format_args!("`all` includes `{other}`: leave one of them out"));
            }
            Some(other) => errors.at(&meta.path, format_args!("`{other}` is written twice; once is enough")),
        }
    }
}

impl StructAttr {
    /// What stands in parentheses after an operation: `delete(qos = 2)`.
    fn options_of(
        &mut self,
        operation: Operation,
        meta: &ParseNestedMeta<'_>,
        errors: &Errors,
    ) -> syn::Result<()> {
        if !meta.input.peek(syn::token::Paren) {
            return alone(meta, errors);
        }
        let mut found = None;
        meta.parse_nested_meta(|option| {
            if option.path.is_ident("qos") {
                return once(&mut found, &option, errors, qos);
            }
            let name = word(&option);
            let help =
                format_args!("`{name}` is not known here\nof an operation write `{}(qos = 2)`", word(meta))
                    .to_string();
            errors.at(&option.path, help);
            skip_value(&option)
        })?;
        self.qos_of.extend(found.map(|qos| (operation, qos)));
        Ok(())
    }
}

impl FieldAttr {
    pub(crate) fn parse(attributes: &[Attribute], errors: &Errors) -> Self {
        let mut parsed = Self::default();
        for_each_word(attributes, "emits", errors, |meta| {
            let word = word(meta);
            if let Some(mask) = Mask::from_word(&word) {
                parsed.mask_word = Some(meta.path.clone());
                if parsed.mask.replace(mask).is_some() {
                    errors.at(
                        &meta.path,
                        "a field has one of `skip`, `redact` and `hash`: leave the others out",
                    );
                }
                return alone(meta, errors);
            }
            match word.as_str() {
                "sensitive_ok" => return once(&mut parsed.sensitive_ok, meta, errors, reason),
                word if STRUCT_WORDS.contains(&word) => {
                    errors.at(
                        &meta.path,
                        format_args!(
                            "`{word}` belongs on the struct\non a field, `skip`, `redact`, `hash` and `sensitive_ok` are known"
                        ),
                    );
                }
                word => {
                    let all = "known are `skip`, `redact`, `hash` and `sensitive_ok = \"…\"`";
                    errors.at(&meta.path, unknown(word, "on a field", &FIELD_WORDS, all));
                }
            }
            skip_value(meta)
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

/// The table of `#[diesel(table_name = schema::users)]`, without its module.
pub(crate) fn diesel_table_name(attributes: &[Attribute]) -> Option<String> {
    let mut table = None;
    lenient(attributes, "diesel", |meta| {
        if meta.path.is_ident("table_name") {
            let path: Path = meta.value()?.parse()?;
            table = path.segments.last().map(|last| last.ident.unraw().to_string());
        } else {
            skip_value(meta)?;
        }
        Ok(())
    });
    table
}

/// Whether a field is `#[diesel(embed)]`, hence several columns.
pub(crate) fn diesel_embeds(attributes: &[Attribute]) -> bool {
    has(attributes, "diesel", &["embed"])
}

/// What of serde's attributes decides names on the wire: `rename_all` of the struct.
pub(crate) fn serde_rename_all(attributes: &[Attribute]) -> Option<String> {
    serde_text(attributes, "rename_all")
}

/// `rename` of a field.
pub(crate) fn serde_rename(attributes: &[Attribute]) -> Option<String> {
    serde_text(attributes, "rename")
}

/// `word = "…"`, or `word(serialize = "…")`: what is written decides, for rows are read as they were written.
fn serde_text(attributes: &[Attribute], word: &str) -> Option<String> {
    let mut found = None;
    lenient(attributes, "serde", |meta| {
        if !meta.path.is_ident(word) {
            return skip_value(meta);
        }
        if meta.input.peek(Token![=]) {
            found = Some(text(meta)?.value());
            return Ok(());
        }
        meta.parse_nested_meta(|side| {
            let name = text(&side)?.value();
            if side.path.is_ident("serialize") {
                found = Some(name);
            }
            Ok(())
        })
    });
    found
}

/// Whether serde has such a word among its attributes, with or without a value.
pub(crate) fn serde_has(attributes: &[Attribute], words: &[&str]) -> bool {
    has(attributes, "serde", words)
}

fn has(attributes: &[Attribute], name: &str, words: &[&str]) -> bool {
    let mut found = false;
    lenient(attributes, name, |meta| {
        found |= words.iter().any(|word| meta.path.is_ident(word));
        skip_value(meta)
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
            errors.push(no_word(error, "write a word here, without quotes"));
        }
    }
}

/// The same for attributes of others, whose mistakes are theirs to report.
fn lenient(attributes: &[Attribute], name: &str, word: impl FnMut(&ParseNestedMeta<'_>) -> syn::Result<()>) {
    for_each_word(attributes, name, &Errors::default(), word);
}

/// The entry's word as the user wrote it.
fn word(meta: &ParseNestedMeta<'_>) -> String {
    word_of(&meta.path)
}

fn word_of(path: &Path) -> String {
    quote::quote!(#path).to_string().replace(' ', "")
}

/// The text of `word = "text"`.
fn text(meta: &ParseNestedMeta<'_>) -> syn::Result<LitStr> {
    let value = value(meta, "\"…\"")?;
    value.parse().map_err(|error| {
        syn::Error::new(error.span(), format_args!("write it in quotes, as in `{} = \"…\"`", word(meta)))
    })
}

/// A number from 1 on.
fn version(meta: &ParseNestedMeta<'_>) -> syn::Result<LitInt> {
    let wrong = |span| syn::Error::new(span, "write the version of the row's shape: a number from 1 on");
    let value = value(meta, "2")?;
    let number: LitInt = value.parse().map_err(|error| wrong(error.span()))?;
    match number.base10_parse::<u32>() {
        Ok(1..) => Ok(number),
        _ => Err(wrong(number.span())),
    }
}

/// 0, 1 or 2.
fn qos(meta: &ParseNestedMeta<'_>) -> syn::Result<LitInt> {
    const HELP: &str =
        "write 0 (at most once), 1 (at least once, the default) or 2 (exactly once at the broker)";
    let value = value(meta, "2")?;
    let number: LitInt = value.parse().map_err(|error| syn::Error::new(error.span(), HELP))?;
    match number.base10_parse::<u8>() {
        Ok(0..=2) => Ok(number),
        _ => Err(syn::Error::new(number.span(), HELP)),
    }
}

/// `before`, or `before = "changed"`.
fn before(meta: &ParseNestedMeta<'_>) -> syn::Result<Before> {
    if !meta.input.peek(Token![=]) {
        return flag(meta).map(|()| Before::Row);
    }
    let word = text(meta)?;
    if word.value() == "changed" {
        return Ok(Before::Changed);
    }
    let help = "write `before` for the row as it was, or `before = \"changed\"` for those of its columns that differ";
    Err(syn::Error::new_spanned(word, help))
}

/// The types of `earlier(UserV1, UserV2)`.
fn types(meta: &ParseNestedMeta<'_>) -> syn::Result<Vec<Path>> {
    const HELP: &str = "write the types of earlier versions, oldest first, as in `earlier(UserV1, UserV2)`";
    if !meta.input.peek(syn::token::Paren) {
        return Err(syn::Error::new_spanned(&meta.path, HELP));
    }
    let content;
    syn::parenthesized!(content in meta.input);
    let types = content.parse_terminated(Path::parse_mod_style, Token![,])?;
    if types.is_empty() {
        return Err(syn::Error::new_spanned(&meta.path, HELP));
    }
    Ok(types.into_iter().collect())
}

/// A text that says something.
fn reason(meta: &ParseNestedMeta<'_>) -> syn::Result<LitStr> {
    let reason = text(meta)?;
    if reason.value().trim().is_empty() {
        return Err(syn::Error::new_spanned(reason, "say why the field may be in events"));
    }
    Ok(reason)
}

fn idents(meta: &ParseNestedMeta<'_>) -> syn::Result<Vec<Ident>> {
    if !meta.input.peek(syn::token::Paren) {
        return Err(syn::Error::new_spanned(
            &meta.path,
            "write the fields in parentheses, as in `key(user_id, role_id)`",
        ));
    }
    let content;
    syn::parenthesized!(content in meta.input);
    let fields = content.parse_terminated(Ident::parse_any, Token![,]).map_err(|error| {
        // What is left unread would be a second mistake.
        while content.parse::<TokenTree>().is_ok() {}
        syn::Error::new(error.span(), "write the names of fields, as in `key(user_id, role_id)`")
    })?;
    if fields.is_empty() {
        return Err(syn::Error::new_spanned(&meta.path, "name at least one field, as in `key(id)`"));
    }
    Ok(fields.into_iter().collect())
}

/// Reads an entry that may be written once. A mistake in it is kept, and reading goes on.
fn once<T>(
    slot: &mut Option<T>,
    meta: &ParseNestedMeta<'_>,
    errors: &Errors,
    parse: impl FnOnce(&ParseNestedMeta<'_>) -> syn::Result<T>,
) -> syn::Result<()> {
    if slot.is_some() {
        errors.at(&meta.path, format_args!("`{}` is written twice; once is enough", word(meta)));
    }
    match parse(meta) {
        Ok(value) => {
            *slot = Some(value);
            Ok(())
        }
        Err(error) => {
            errors.push(error);
            skip_value(meta)
        }
    }
}

/// Reads nothing, and keeps the mistake of a value.
fn alone(meta: &ParseNestedMeta<'_>, errors: &Errors) -> syn::Result<()> {
    flag(meta).or_else(|error| {
        errors.push(error);
        skip_value(meta)
    })
}

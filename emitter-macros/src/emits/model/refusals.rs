//! What a model may not say, each with what to write instead.

use syn::ext::IdentExt;
use syn::{DeriveInput, Ident, Path};

use super::secrecy::looks_secret;
use super::{Field, KeyField};
use crate::emits::attr::{FieldAttr, Mask, StructAttr, serde_has};
use crate::errors::Errors;

/// Refuses a field whose name looks secret and that is not said to be harmless.
pub(super) fn refuse_secret(ident: &Ident, attr: &FieldAttr, model: &StructAttr, errors: &Errors) {
    let name = ident.unraw().to_string();
    if looks_secret(&name) && attr.mask.is_none() && attr.sensitive_ok.is_none() {
        let cure = match model.event {
            Some(()) => "leave it out of the struct,\n",
            None => {
                "leave it out of them with `#[emits(skip)]`,\nhide its value with `#[emits(redact)]` or `#[emits(hash)]`, "
            }
        };
        errors.at(
            ident,
            format_args!(
                "`{name}` looks secret, and events are sent to every node and listener: {cure}or say why it may be in \
                 them, as in `#[emits(sensitive_ok = \"a public key\")]`"
            ),
        );
    }
}

/// Refuses what is said of rows where there is none.
pub(super) fn refuse_rows_words(attr: &StructAttr, fields: &[Field<'_>], errors: &Errors) {
    let mut words: Vec<&Path> = attr.operations.iter().map(|(_, word)| word).collect();
    // `all` is several.
    words.dedup_by(|a, b| a.is_ident("all") && b.is_ident("all"));
    for word in words {
        errors.at(
            word,
            "an event that is no row has no operations, `emitter.publish(…)` tells of it: leave this out, or `event`",
        );
    }
    if let Some((word, _)) = &attr.before {
        errors.at(word, "an event that is no row is not updated, so there is nothing before: leave this out");
    }
    if let Some(word) = &attr.durable {
        errors.at(word, "an event that is no row is written with none, so there is no transaction that it could be in: write `queued`, or leave this out");
    }
    if let (Some(word), None) = (&attr.park, &attr.queued) {
        errors.at(word, "only what is written into an outbox waits there, and an event that is no row is written when it is `queued`: add that, or leave this out");
    }
    for word in fields.iter().filter_map(|field| field.attr.mask_word.as_ref()) {
        errors.at(
            word,
            "an event holds what is to be told: leave the field out of the struct, or this out of the field",
        );
    }
}

/// The other way round.
pub(super) fn refuse_events_words(attr: &StructAttr, errors: &Errors) {
    if let Some(kind) = &attr.kind {
        errors.at(
            kind,
            "a model's events are of the kind that its name and their operation make, see `Builder::event_kind`:\nleave \
             `kind` out, or write `event` beside it for what is no row",
        );
    }
}

/// A kind is one word for programs that read nothing else.
pub(super) fn refuse_kind(attr: &StructAttr, errors: &Errors) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let good = |kind: &str| (1..=128).contains(&kind.len()) && kind.chars().all(allowed);
    if let Some(kind) = attr.kind.as_ref().filter(|kind| !good(&kind.value())) {
        errors.at(
            kind,
            "a kind of event is 1 to 128 letters (a to z), digits, '_', '-', '.' or '/', such as \"login_failed\"",
        );
    }
}

pub(super) fn refuse_lifetimes(input: &DeriveInput, errors: &Errors) {
    for lifetime in input.generics.lifetimes() {
        errors.at(
            lifetime,
            "an emitting model owns its data: its events outlive the statement and are read by other threads.\n\
             Write `String` instead of `&str`, and so on",
        );
    }
}

/// Refuses what serde would make of a row that its columns do not say.
pub(super) fn refuse_serde(
    input: &DeriveInput,
    attr: &StructAttr,
    fields: &[Field<'_>],
    key: &[KeyField],
    errors: &Errors,
) {
    if let Some(word) =
        ["transparent", "into", "from", "try_from"].into_iter().find(|word| serde_has(&input.attrs, &[word]))
    {
        errors.at(
            &input.ident,
            format_args!(
                "with serde's `{word}` the row travels as something else than its columns, which events name:\n\
                 derive `Emits` on a struct that is written as it is"
            ),
        );
    }
    let in_key = |field: &&Field<'_>| key.iter().any(|part| part.ident == *field.ident);
    for field in fields.iter().filter(|field| field.attr.mask.is_none() && !in_key(field)) {
        if serde_has(&field.field.attrs, &["skip", "skip_serializing", "skip_deserializing"]) {
            let cure = match attr.event {
                Some(()) => "leave it out of the struct",
                None => "write `#[emits(skip)]`, which leaves it out for every listener",
            };
            errors.at(
                field.ident,
                format_args!(
                    "serde leaves it out, so that other nodes would be handed a default in its place, or nothing at \
                     all:\n{cure}"
                ),
            );
        }
        if serde_has(&field.field.attrs, &["flatten"]) {
            errors.at(
                field.ident,
                "a flattened field is many in JSON, and events name each column: write its fields out, or leave \
                 `flatten` out",
            );
        }
    }
}

/// A program that hashes does not start without a key, and generic models are not known at start.
pub(super) fn refuse_generic_hash(input: &DeriveInput, field: &Field<'_>, errors: &Errors) {
    if field.attr.mask == Some(Mask::Hash) && !input.generics.params.is_empty() {
        errors.at(field.ident, "a generic model cannot hash: write `#[emits(redact)]` or `#[emits(skip)]`");
    }
}

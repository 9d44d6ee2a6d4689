//! Reads `#[listener(…)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::meta::ParseNestedMeta;
use syn::parse::Parser;
use syn::{LitBool, LitInt, LitStr, Path};

use super::filter::Filter;
use crate::errors::{Errors, flag, no_word, skip_value, unknown, value};
use crate::time::{Millis, some_time, time};

/// What `#[listener(…)]` says.
#[derive(Default)]
pub(crate) struct ListenerAttr {
    pub(crate) model: Option<ModelRef>,
    pub(crate) name: Option<LitStr>,
    pub(crate) allow_remote: Option<()>,
    pub(crate) remote_only: Option<()>,
    pub(crate) every_instance: Option<()>,
    pub(crate) group: Option<LitStr>,
    pub(crate) filters: Vec<Filter>,
    pub(crate) options: Options,
    pub(crate) krate: Option<Path>,
}

/// The model, by its name or its type.
pub(crate) enum ModelRef {
    Name(LitStr),
    Type(Path),
}

/// How the listener is called, where it says so.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) concurrency: Option<LitInt>,
    pub(crate) timeout: Option<Millis>,
    pub(crate) ordered: Option<Path>,
    pub(crate) unordered: Option<Path>,
    pub(crate) attempts: Option<LitInt>,
    pub(crate) backoff: Option<Millis>,
    pub(crate) jitter: Option<Millis>,
    pub(crate) budget: Option<Millis>,
    /// Whether an event that it does not handle becomes a dead letter.
    pub(crate) dead_letter: Option<LitBool>,
    /// It was asked for, or a filter needs it.
    pub(crate) before: Option<()>,
}

const WORDS: [&str; 19] = [
    "model",
    "name",
    "allow_remote",
    "remote_only",
    "every_instance",
    "group",
    "where",
    "data",
    "changed",
    "enters",
    "leaves",
    "concurrency",
    "timeout",
    "ordered",
    "unordered",
    "retry",
    "dead_letter",
    "before",
    "crate",
];

const KNOWN: &str = "known are `model = …`, `name = \"…\"`, `allow_remote`, `remote_only`, `group = \"…\"`, `every_instance`, the filters `where(…)`, `data(…)`, \
                     `changed(…)`, `enters(…)`, `leaves(…)`, and `concurrency = …`, `timeout = \"…\"`, `unordered`, \
                     `retry(…)`, `dead_letter = false`, `before`, `crate = …`";

impl ListenerAttr {
    pub(crate) fn parse(attribute: TokenStream, errors: &Errors) -> Self {
        let mut parsed = Self::default();
        let parser = syn::meta::parser(|meta| parsed.word(&meta, errors));
        if let Err(error) = parser.parse2(attribute) {
            errors.push(no_word(error, "write words here, as in `model = \"user\", allow_remote`"));
        }
        parsed.options.check(errors);
        parsed.check_group(errors);
        parsed
    }

    fn check_group(&self, errors: &Errors) {
        let Some(group) = &self.group else { return };
        if self.every_instance.is_some() {
            errors.at(group, "`every_instance` and `group` exclude each other: leave one of them out");
        }
        if self.remote_only.is_some() {
            errors.at(
                group,
                "a group hears every event once, whichever of the nodes wrote it: leave `remote_only` out",
            );
        }
    }

    fn word(&mut self, meta: &ParseNestedMeta<'_>, errors: &Errors) -> syn::Result<()> {
        let path = &meta.path;
        let name = quote!(#path).to_string().replace(' ', "");
        match name.as_str() {
            "model" => once(&mut self.model, meta, errors, ModelRef::parse)?,
            "name" => once(&mut self.name, meta, errors, listener_name)?,
            "allow_remote" => once(&mut self.allow_remote, meta, errors, flag)?,
            "remote_only" => once(&mut self.remote_only, meta, errors, flag)?,
            "every_instance" => once(&mut self.every_instance, meta, errors, flag)?,
            "group" => once(&mut self.group, meta, errors, group)?,
            "concurrency" => once(&mut self.options.concurrency, meta, errors, count)?,
            "timeout" => once(&mut self.options.timeout, meta, errors, some_time)?,
            "ordered" => once(&mut self.options.ordered, meta, errors, flag_path)?,
            "unordered" => once(&mut self.options.unordered, meta, errors, flag_path)?,
            "dead_letter" => once(&mut self.options.dead_letter, meta, errors, yes_or_no)?,
            "before" => once(&mut self.options.before, meta, errors, flag)?,
            "retry" => self.options.retry(meta, errors)?,
            "crate" => {
                once(&mut self.krate, meta, errors, |meta| meta.value()?.call(Path::parse_mod_style))?;
            }
            "where" | "data" | "changed" | "enters" | "leaves" => {
                let filter = Filter::parse(&name, meta)?;
                if self.filters.iter().any(|other| other.word == name) {
                    errors.at(path, format_args!("`{name}` is written twice: put all conditions into one"));
                }
                self.filters.push(filter);
            }
            "create" | "create_many" | "update" | "update_many" | "upsert" | "delete" | "delete_many"
            | "all" => {
                errors.at(
                    path,
                    "which operations it hears is said by its parameter: `Event<UserEvent>` for all, `Event<UserCreated>` \
                     for one",
                );
                skip_value(meta)?;
            }
            _ => {
                errors.at(path, unknown(&name, "here", &WORDS, KNOWN));
                skip_value(meta)?;
            }
        }
        Ok(())
    }
}

impl ModelRef {
    fn parse(meta: &ParseNestedMeta<'_>) -> syn::Result<Self> {
        let value = value(meta, "\"user\"")?;
        if value.peek(LitStr) {
            return Ok(Self::Name(value.parse()?));
        }
        let path = value.call(Path::parse_mod_style);
        path.map(Self::Type).map_err(|error| {
            syn::Error::new(
                error.span(),
                "write the model's name, as in `model = \"user\"`, or its type, as in `model = User`",
            )
        })
    }
}

impl Options {
    /// `retry(attempts = 5, backoff = "1s", …)`
    fn retry(&mut self, meta: &ParseNestedMeta<'_>, errors: &Errors) -> syn::Result<()> {
        const WORDS: [&str; 4] = ["attempts", "backoff", "jitter", "budget"];
        const EXAMPLE: &str =
            "`retry(attempts = 5, backoff = \"1s\", jitter = \"250ms\", budget = \"1min\")`";
        if !meta.input.peek(syn::token::Paren) {
            return Err(syn::Error::new_spanned(
                &meta.path,
                format_args!("write {EXAMPLE}, or a part of it"),
            ));
        }
        let already = self.attempts.is_some()
            || self.backoff.is_some()
            || self.jitter.is_some()
            || self.budget.is_some();
        if already {
            errors.at(&meta.path, "`retry` is written twice; once is enough");
        }
        meta.parse_nested_meta(|meta| {
            let path = &meta.path;
            let name = quote!(#path).to_string();
            match name.as_str() {
                "attempts" => once(&mut self.attempts, &meta, errors, count),
                "backoff" => once(&mut self.backoff, &meta, errors, some_time),
                "jitter" => once(&mut self.jitter, &meta, errors, time),
                "budget" => once(&mut self.budget, &meta, errors, some_time),
                _ => {
                    let all = format!("write {EXAMPLE}, or a part of it");
                    errors.at(path, unknown(&name, "here", &WORDS, &all));
                    skip_value(&meta)
                }
            }
        })
        .map_err(|error| no_word(error, format_args!("write {EXAMPLE}, or a part of it")))
    }

    fn check(&self, errors: &Errors) {
        if let (Some(_), Some(unordered)) = (&self.ordered, &self.unordered) {
            errors.at(unordered, "`ordered` and `unordered` exclude each other: leave one of them out");
        }
    }

    /// Whether anything was said.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { concurrency, timeout, unordered, attempts, backoff, jitter, budget, before, .. } = self;
        let forgets = self.dead_letter.as_ref().is_some_and(|dead_letter| !dead_letter.value);
        let numbers = concurrency.is_some() || attempts.is_some();
        let times = [timeout, backoff, jitter, budget].iter().any(|time| time.is_some());
        !numbers && !times && !forgets && unordered.is_none() && before.is_none()
    }
}

fn listener_name(meta: &ParseNestedMeta<'_>) -> syn::Result<LitStr> {
    let name: LitStr = value(meta, "\"…\"")?.parse().map_err(|error: syn::Error| {
        syn::Error::new(error.span(), "write it in quotes, as in `name = \"…\"`")
    })?;
    if name.value().trim().is_empty() {
        return Err(syn::Error::new_spanned(
            name,
            "the name is how logs and `.require(…)` call the listener: leave it out, or write one",
        ));
    }
    Ok(name)
}

fn flag_path(meta: &ParseNestedMeta<'_>) -> syn::Result<Path> {
    flag(meta).map(|()| meta.path.clone())
}

/// A name that can be part of a subscription.
fn group(meta: &ParseNestedMeta<'_>) -> syn::Result<LitStr> {
    let rule = "a group's name is of 1 to 128 letters (a to z), digits, '-', '_' and '.', in quotes, such as \"billing\"";
    let name: LitStr =
        value(meta, "\"billing\"")?.parse().map_err(|error| syn::Error::new(error.span(), rule))?;
    let text = name.value();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 128 || !text.chars().all(allowed) {
        return Err(syn::Error::new_spanned(name, rule));
    }
    Ok(name)
}

/// `true` or `false`.
fn yes_or_no(meta: &ParseNestedMeta<'_>) -> syn::Result<LitBool> {
    value(meta, "false")?
        .parse()
        .map_err(|error: syn::Error| syn::Error::new(error.span(), "write `true` or `false`, without quotes"))
}

/// A number from 1 on.
fn count(meta: &ParseNestedMeta<'_>) -> syn::Result<LitInt> {
    let value = value(meta, "8")?;
    let wrong =
        |span| syn::Error::new(span, "write a number from 1 to 65535, without quotes and without a type");
    let number: LitInt = value.parse().map_err(|error| wrong(error.span()))?;
    match number.base10_parse::<u16>() {
        Ok(1..) if number.suffix().is_empty() => Ok(number),
        _ => Err(wrong(number.span())),
    }
}

/// Reads an entry that may be written once. A mistake in it is kept, and reading goes on.
fn once<T>(
    slot: &mut Option<T>,
    meta: &ParseNestedMeta<'_>,
    errors: &Errors,
    parse: impl FnOnce(&ParseNestedMeta<'_>) -> syn::Result<T>,
) -> syn::Result<()> {
    match parse(meta) {
        Ok(value) => {
            if slot.replace(value).is_some() {
                let path = &meta.path;
                errors.at(path, format_args!("`{}` is written twice; once is enough", quote!(#path)));
            }
            Ok(())
        }
        Err(error) => {
            errors.push(error);
            skip_value(meta)
        }
    }
}

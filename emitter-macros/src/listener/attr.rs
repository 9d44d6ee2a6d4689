//! Reads `#[listener(…)]`.

use proc_macro2::TokenStream;
use quote::quote;
use syn::meta::ParseNestedMeta;
use syn::parse::Parser;
use syn::{LitStr, Path};

use super::filter::Filter;
use crate::errors::{Errors, did_you_mean, skip_value};

/// What `#[listener(…)]` says.
#[derive(Default)]
pub(crate) struct ListenerAttr {
    pub(crate) model: Option<LitStr>,
    pub(crate) allow_remote: Option<()>,
    pub(crate) remote_only: Option<()>,
    pub(crate) filters: Vec<Filter>,
    pub(crate) krate: Option<Path>,
}

const WORDS: [&str; 9] =
    ["model", "allow_remote", "remote_only", "where", "data", "changed", "enters", "leaves", "crate"];

impl ListenerAttr {
    pub(crate) fn parse(attribute: TokenStream, errors: &Errors) -> Self {
        let mut parsed = Self::default();
        let parser = syn::meta::parser(|meta| parsed.word(&meta, errors));
        if let Err(error) = parser.parse2(attribute) {
            errors.push(error);
        }
        parsed
    }

    fn word(&mut self, meta: &ParseNestedMeta<'_>, errors: &Errors) -> syn::Result<()> {
        let path = &meta.path;
        let name = quote!(#path).to_string().replace(' ', "");
        match name.as_str() {
            "model" => {
                let value = meta.value()?;
                match value.parse() {
                    Ok(model) => set(&mut self.model, model, meta, errors),
                    Err(error) => {
                        errors.at_span(
                            error.span(),
                            "write the model's name in quotes, as in `model = \"user\"`",
                        );
                        skip_value(meta)?;
                    }
                }
            }
            "allow_remote" => set(&mut self.allow_remote, (), meta, errors),
            "remote_only" => set(&mut self.remote_only, (), meta, errors),
            "crate" => set(&mut self.krate, meta.value()?.call(Path::parse_mod_style)?, meta, errors),
            "where" | "data" | "changed" | "enters" | "leaves" => {
                let filter = Filter::parse(&name, meta)?;
                if self.filters.iter().any(|other| other.word == name) {
                    errors.at(path, format_args!("`{name}` is written twice: put all conditions into one"));
                }
                self.filters.push(filter);
            }
            _ => {
                let hint = did_you_mean(&name, &WORDS);
                let known = "known are `model = \"…\"`, `allow_remote`, `remote_only`, the filters `where(…)`, `data(…)`, \
                             `changed(…)`, `enters(…)`, `leaves(…)`, and `crate = …`";
                errors.at(path, format_args!("`{name}` is not known here{hint}\n{known}"));
                skip_value(meta)?;
            }
        }
        Ok(())
    }
}

fn set<T>(slot: &mut Option<T>, value: T, meta: &ParseNestedMeta<'_>, errors: &Errors) {
    if slot.replace(value).is_some() {
        let path = &meta.path;
        errors.at(path, format_args!("`{}` is written twice; once is enough", quote!(#path)));
    }
}

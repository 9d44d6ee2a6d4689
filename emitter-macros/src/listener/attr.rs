//! Reads `#[listener(…)]`.

use proc_macro2::TokenStream;
use syn::meta::ParseNestedMeta;
use syn::parse::Parser;
use syn::{Ident, LitStr, Path};

use crate::errors::{Errors, did_you_mean};

/// What `#[listener(…)]` says.
#[derive(Default)]
pub(crate) struct ListenerAttr {
    pub(crate) model: Option<LitStr>,
    pub(crate) allow_remote: Option<Ident>,
    pub(crate) remote_only: Option<Ident>,
    pub(crate) krate: Option<Path>,
}

const WORDS: [&str; 4] = ["model", "allow_remote", "remote_only", "crate"];

impl ListenerAttr {
    pub(crate) fn parse(attribute: TokenStream, errors: &Errors) -> Self {
        let mut parsed = Self::default();
        let parser = syn::meta::parser(|meta| parsed.word(&meta));
        if let Err(error) = parser.parse2(attribute) {
            errors.push(error);
        }
        parsed
    }

    fn word(&mut self, meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
        let Some(word) = meta.path.get_ident() else {
            return Err(meta.error("expected a single word, such as `allow_remote`"));
        };
        let name = word.to_string();
        match name.as_str() {
            "model" => {
                let name: LitStr = meta.value()?.parse()?;
                set(&mut self.model, name, meta)
            }
            "allow_remote" => set(&mut self.allow_remote, word.clone(), meta),
            "remote_only" => set(&mut self.remote_only, word.clone(), meta),
            "crate" => {
                let path = meta.value()?.call(Path::parse_mod_style)?;
                set(&mut self.krate, path, meta)
            }
            _ => Err(meta.error(format_args!(
                "`{name}` is not known here{}\nknown are `model = \"…\"`, `allow_remote`, `remote_only`, `crate = …`",
                did_you_mean(&name, &WORDS)
            ))),
        }
    }
}

fn set<T>(slot: &mut Option<T>, value: T, meta: &ParseNestedMeta<'_>) -> syn::Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(meta.error("written twice; once is enough")),
    }
}

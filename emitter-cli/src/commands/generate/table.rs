//! What `table!` says.

use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Attribute, Ident, Item, Token, Type, braced, parenthesized};

/// A table.
pub(super) struct Table {
    /// The modules around it, as those of a database's schemas.
    pub(super) modules: Vec<String>,
    /// As a module of Rust's, without the database's schema.
    pub(super) name: String,
    pub(super) key: Vec<String>,
    pub(super) columns: Vec<Column>,
}

/// A column, as it is called in Rust.
pub(super) struct Column {
    pub(super) name: String,
    pub(super) ty: Type,
}

impl Table {
    /// What it is called within its file: `users`, `auth::users`.
    pub(super) fn path(&self) -> String {
        let Self { modules, name, .. } = self;
        modules.iter().chain([name]).map(String::as_str).collect::<Vec<_>>().join("::")
    }
}

/// The tables of a file.
///
/// # Errors
/// What is wrong with it, and where.
pub(super) fn read(text: &str) -> Result<Vec<Table>, String> {
    let said = |error: syn::Error| {
        let at = error.span().start();
        format!("line {}: {error}", at.line)
    };
    let file = syn::parse_file(text).map_err(said)?;
    let mut tables = Vec::new();
    collect(file.items, &[], &mut tables).map_err(said)?;
    Ok(tables)
}

/// Also those in modules, as a database's schemas are.
fn collect(items: Vec<Item>, modules: &[String], tables: &mut Vec<Table>) -> syn::Result<()> {
    for item in items {
        match item {
            Item::Macro(item) if item.mac.path.segments.last().is_some_and(|last| last.ident == "table") => {
                tables.push(Table { modules: modules.to_vec(), ..item.mac.parse_body()? });
            }
            Item::Mod(module) => {
                let within = [modules, &[module.ident.unraw().to_string()]].concat();
                collect(module.content.map(|(_, items)| items).unwrap_or_default(), &within, tables)?;
            }
            _ => {}
        }
    }
    Ok(())
}

impl Parse for Table {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        while input.peek(Token![use]) {
            input.parse::<syn::ItemUse>()?;
        }
        Attribute::parse_outer(input)?;
        let mut name = input.call(Ident::parse_any)?;
        if input.peek(Token![.]) {
            input.parse::<Token![.]>()?;
            name = input.call(Ident::parse_any)?;
        }
        let key = if input.peek(syn::token::Paren) {
            let list;
            parenthesized!(list in input);
            let key = Punctuated::<Ident, Token![,]>::parse_terminated_with(&list, Ident::parse_any)?;
            key.iter().map(|column| column.unraw().to_string()).collect()
        } else {
            vec!["id".to_owned()]
        };
        let list;
        braced!(list in input);
        let columns = Punctuated::<Column, Token![,]>::parse_terminated(&list)?;
        let (name, columns) = (name.unraw().to_string(), columns.into_iter().collect());
        Ok(Self { modules: Vec::new(), name, key, columns })
    }
}

impl Parse for Column {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        Attribute::parse_outer(input)?;
        let name = input.call(Ident::parse_any)?.unraw().to_string();
        input.parse::<Token![->]>()?;
        Ok(Self { name, ty: input.parse()? })
    }
}

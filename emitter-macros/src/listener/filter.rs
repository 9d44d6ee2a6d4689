//! Reads `where(…)`, `data(…)`, `changed(…)`, `enters(…)` and `leaves(…)`.

use proc_macro2::Span;
use syn::ext::IdentExt;
use syn::meta::ParseNestedMeta;
use syn::parse::ParseStream;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::{Expr, Ident, Token};

pub(super) mod expand;

/// One filter, with its word and where that stands.
pub(crate) struct Filter {
    pub(crate) word: String,
    span: Span,
    conditions: Conditions,
}

enum Conditions {
    /// `where(…)`
    Row(Vec<Condition>),
    /// `data(…)`
    Written(Vec<Condition>),
    /// `changed(…)`
    Changed(Vec<Ident>),
    /// `enters(…)`
    Enters(Vec<Condition>),
    /// `leaves(…)`
    Leaves(Vec<Condition>),
}

/// What has to hold of a row.
enum Condition {
    /// `status = …`
    Column(Ident, Test),
    /// `status`
    Present(Ident),
    /// `status: … -> …`
    Moves(Ident, Box<[Test; 2]>),
    /// `|row| …`
    Predicate(Expr),
}

/// What has to hold of a column.
enum Test {
    OneOf(Vec<Expr>),
    Null(Expr),
    Predicate(Expr),
}

impl Filter {
    /// Reads what follows the word.
    pub(crate) fn parse(word: &str, meta: &ParseNestedMeta<'_>) -> syn::Result<Self> {
        if !meta.input.peek(syn::token::Paren) {
            let example = match word {
                "changed" => "changed(email)".to_owned(),
                word => format!("{word}(status = \"ACTIVE\")"),
            };
            return Err(syn::Error::new_spanned(
                &meta.path,
                format_args!("write the conditions in parentheses, as in `{example}`"),
            ));
        }
        let content;
        syn::parenthesized!(content in meta.input);
        let conditions = match word {
            "where" => Conditions::Row(list(&content, Condition::of_row)?),
            "data" => Conditions::Written(list(&content, Condition::of_data)?),
            "enters" => Conditions::Enters(list(&content, Condition::of_row)?),
            "leaves" => Conditions::Leaves(list(&content, Condition::of_row)?),
            _ => Conditions::Changed(list(&content, changed_column)?),
        };
        let filter = Self { word: word.to_owned(), span: meta.path.span(), conditions };
        if filter.is_empty() {
            return Err(syn::Error::new_spanned(
                &meta.path,
                format_args!("`{word}` without a condition lets everything through: leave it out"),
            ));
        }
        Ok(filter)
    }

    /// Whether it compares a row with what it was before.
    pub(crate) fn needs_before(&self) -> bool {
        match &self.conditions {
            Conditions::Row(_) => false,
            Conditions::Changed(_) | Conditions::Enters(_) | Conditions::Leaves(_) => true,
            Conditions::Written(all) => all.iter().any(|one| matches!(one, Condition::Moves(..))),
        }
    }

    fn is_empty(&self) -> bool {
        match &self.conditions {
            Conditions::Changed(columns) => columns.is_empty(),
            Conditions::Row(all)
            | Conditions::Written(all)
            | Conditions::Enters(all)
            | Conditions::Leaves(all) => all.is_empty(),
        }
    }
}

fn list<T>(content: ParseStream<'_>, item: fn(ParseStream<'_>) -> syn::Result<T>) -> syn::Result<Vec<T>> {
    Ok(Punctuated::<T, Token![,]>::parse_terminated_with(content, item)?.into_iter().collect())
}

fn changed_column(input: ParseStream<'_>) -> syn::Result<Ident> {
    let column = Ident::parse_any(input).map_err(|error| {
        syn::Error::new(error.span(), "`changed` takes names of columns, as in `changed(email, phone)`")
    })?;
    if input.peek(Token![=]) || input.peek(Token![:]) {
        return Err(input.error("`changed` takes columns only; for a value write `data(…)` or `enters(…)`"));
    }
    Ok(column)
}

fn column(input: ParseStream<'_>) -> syn::Result<Ident> {
    Ident::parse_any(input).map_err(|error| {
        syn::Error::new(error.span(), "write a column's name here, or a predicate such as `|row| …`")
    })
}

fn is_predicate(input: ParseStream<'_>) -> bool {
    input.peek(Token![|]) || input.peek(Token![||]) || input.peek(Token![move])
}

impl Condition {
    fn of_row(input: ParseStream<'_>) -> syn::Result<Self> {
        if is_predicate(input) {
            return Ok(Self::Predicate(input.parse()?));
        }
        let column = column(input)?;
        if input.peek(Token![:]) {
            return Err(input.error("`… -> …` belongs into `data(…)`: it is about what a write did"));
        }
        if input.is_empty() || input.peek(Token![,]) {
            return Err(syn::Error::new_spanned(
                &column,
                format_args!(
                    "write what `{column}` has to be, as in `{column} = …`; `data({column})` hears every write that sets it"
                ),
            ));
        }
        Self::with_value(column, input)
    }

    fn of_data(input: ParseStream<'_>) -> syn::Result<Self> {
        if is_predicate(input) {
            return Ok(Self::Predicate(input.parse()?));
        }
        let column = column(input)?;
        if input.is_empty() || input.peek(Token![,]) {
            return Ok(Self::Present(column));
        }
        if !input.peek(Token![:]) {
            let condition = Self::with_value(column, input)?;
            if input.peek(Token![->]) {
                return Err(input.error("between old and new value of a column, write `:` behind its name, as in `status: \"DRAFT\" -> \"PUBLISHED\"`"));
            }
            return Ok(condition);
        }
        input.parse::<Token![:]>()?;
        let old = Test::parse(input)?;
        input.parse::<Token![->]>().map_err(|error| {
            syn::Error::new(
                error.span(),
                format_args!("write old and new value, as in `{column}: \"DRAFT\" -> \"PUBLISHED\"`"),
            )
        })?;
        Ok(Self::Moves(column, Box::new([old, Test::parse(input)?])))
    }

    /// What follows the column in `column = …`.
    fn with_value(column: Ident, input: ParseStream<'_>) -> syn::Result<Self> {
        if input.peek(Token![==]) {
            return Err(input.error("write one `=`"));
        }
        input.parse::<Token![=]>().map_err(|error| {
            syn::Error::new(
                error.span(),
                format_args!(
                    "write `= value`, or for anything else a predicate, as in `{column} = |{column}| …`"
                ),
            )
        })?;
        Ok(Self::Column(column, Test::parse(input)?))
    }
}

impl Test {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        if is_predicate(input) {
            return Ok(Self::Predicate(input.parse()?));
        }
        let value: Expr = input.parse().map_err(|error| {
            syn::Error::new(
                error.span(),
                "write a value here, a list of values, `None` for NULL, or a predicate, as in `|value| …`",
            )
        })?;
        Ok(match value {
            Expr::Assign(or) => {
                return Err(syn::Error::new_spanned(
                    or,
                    "conditions stand between commas, and all have to hold; where one of several has to, write a list, \
                     as in `status = [\"DRAFT\", \"ACTIVE\"]`, or a predicate of the row, as in `|row| …`",
                ));
            }
            Expr::Path(path) if ["null", "NULL", "nil"].iter().any(|null| path.path.is_ident(null)) => {
                return Err(syn::Error::new_spanned(path, "write `None` for NULL"));
            }
            Expr::Path(path) if path.path.is_ident("None") => Self::Null(Expr::Path(path)),
            Expr::Array(array) if array.elems.is_empty() => {
                return Err(syn::Error::new_spanned(
                    array,
                    "no value is in an empty list: name at least one",
                ));
            }
            Expr::Array(array) => Self::OneOf(array.elems.into_iter().collect()),
            value => Self::OneOf(vec![value]),
        })
    }
}

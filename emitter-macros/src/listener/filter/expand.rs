//! Prints filters as calls of ordinary functions.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::ext::IdentExt;
use syn::spanned::Spanned;
use syn::{Ident, Type};

use super::{Condition, Conditions, Filter, Test};
use crate::crate_path;

/// What the printed code names.
struct Print<'a> {
    krate: &'a TokenStream,
    event: &'a Type,
}

/// Variables of ours are of mixed site, so that they hide no name of the user's, and have names that
/// no column has: with `use schema::posts::dsl::*` a pattern `row` would be that column.
fn variable(name: &str, at: Span) -> Ident {
    Ident::new(&format!("__{name}"), Span::mixed_site().located_at(at))
}

/// A closure that is handed the event and says whether the listener is; `None` without filters.
pub(in super::super) fn expand(filters: &[Filter], krate: &TokenStream, event: &Type) -> Option<TokenStream> {
    let print = Print { krate, event };
    let (change, subject) = (variable("change", Span::call_site()), variable("event", Span::call_site()));
    let conditions = filters.iter().map(|filter| print.filter(filter, &change));
    (!filters.is_empty()).then(|| {
        quote! {
            |#subject: &#krate::event::Event<#event>| #subject.any_row(|#change| #(#conditions)&&*)
        }
    })
}

/// The checks that a filter can match at all.
pub(in super::super) fn checks(filters: &[Filter], krate: &TokenStream, event: &Type) -> TokenStream {
    let check = |filter: &Filter| {
        let (check, message) = match &filter.conditions {
            Conditions::Row(_) => return None,
            Conditions::Written(all) if all.iter().any(|one| matches!(one, Condition::Moves(..))) => (
                "can_change",
                "this never matches: only an update tells what a column was before. Listen to updates, or leave the old value out",
            ),
            Conditions::Written(_) => (
                "can_set",
                "this never matches: a delete sets no column. Use `where(…)`, which speaks of the row as it was",
            ),
            Conditions::Changed(_) => (
                "can_change",
                "this never matches: only an update changes columns, and tells which. Listen to updates, or leave `changed` out",
            ),
            Conditions::Enters(_) => (
                "can_enter",
                "this never matches: by these events no row is known to enter a condition. Use `where(…)`",
            ),
            Conditions::Leaves(_) => (
                "can_leave",
                "this never matches: by these events no row is known to leave a condition. Use `where(…)`",
            ),
        };
        let check = Ident::new(check, Span::call_site());
        let check = quote_spanned! {filter.span=>
            ::core::assert!(#krate::__private::#check::<#event>(), #message)
        };
        Some(quote!(const _: () = #check;))
    };
    filters.iter().filter_map(check).collect()
}

impl Print<'_> {
    fn filter(&self, filter: &Filter, change: &Ident) -> TokenStream {
        match &filter.conditions {
            Conditions::Row(all) => {
                let row = variable("row", filter.span);
                let conditions = all.iter().map(|one| self.condition(one, &row));
                quote!({ let #row = #change.row(); #(#conditions)&&* })
            }
            Conditions::Written(all) => {
                let conditions = all.iter().map(|one| self.written(one, change));
                quote!(#(#conditions)&&*)
            }
            Conditions::Changed(columns) => {
                let columns = columns.iter().map(|column| {
                    let (place, row) = (self.place(column), variable("row", column.span()));
                    // The field is looked at, so that the compiler knows it or says what it is called.
                    quote_spanned! {column.span()=>
                        { let #row = #change.row(); let _ = &#row.#column; #change.changes(#place) }
                    }
                });
                quote!((#(#columns)||*))
            }
            Conditions::Enters(all) => self.held(all, change, "enters", filter),
            Conditions::Leaves(all) => self.held(all, change, "leaves", filter),
        }
    }

    fn held(&self, all: &[Condition], change: &Ident, method: &str, filter: &Filter) -> TokenStream {
        let row = variable("row", filter.span);
        let method = Ident::new(method, Span::call_site());
        let conditions = all.iter().map(|one| self.condition(one, &row));
        quote!(#change.#method(|#row| #(#conditions)&&*))
    }

    /// A condition on what the write set.
    fn written(&self, condition: &Condition, change: &Ident) -> TokenStream {
        match condition {
            Condition::Column(column, _) => {
                let (place, row) = (self.place(column), variable("row", column.span()));
                let condition = self.condition(condition, &row);
                quote!(#change.sets(#place).is_some_and(|#row| #condition))
            }
            Condition::Present(column) => {
                let (place, row) = (self.place(column), variable("row", column.span()));
                quote_spanned! {column.span()=> #change.sets(#place).is_some_and(|#row| { let _ = &#row.#column; true }) }
            }
            Condition::Moves(column, moves) => {
                let row = variable("row", column.span());
                let [old, new] = moves.each_ref().map(|test| self.test(column, test, &row));
                quote!(#change.moves(|#row| #old, |#row| #new))
            }
            Condition::Predicate(predicate) => {
                let row = variable("row", predicate.span());
                let condition = self.condition(condition, &row);
                quote!(#change.after().is_some_and(|#row| #condition))
            }
        }
    }

    /// A condition on a row.
    fn condition(&self, condition: &Condition, row: &Ident) -> TokenStream {
        match condition {
            Condition::Column(column, test) => self.test(column, test, row),
            Condition::Predicate(predicate) => {
                let krate = crate_path::located(self.krate, predicate.span());
                quote_spanned!(predicate.span()=> #krate::__private::check(#row, #predicate))
            }
            Condition::Present(_) | Condition::Moves(..) => quote!(true),
        }
    }

    /// The column is named once, so that one that is not there is refused at its name; all else is
    /// said at the value, for that is what has to be written otherwise.
    fn test(&self, column: &Ident, test: &Test, row: &Ident) -> TokenStream {
        let call = |at: Span, function: &str, argument: TokenStream| {
            let (krate, held) = (crate_path::located(self.krate, at), variable("held", at));
            let function = Ident::new(function, at);
            quote_spanned!(at=> { let #held = &#row.#column; #krate::__private::#function(#held #argument) })
        };
        match test {
            Test::OneOf(values) => {
                // In parentheses, for it may be `FIRST + 1`.
                let any = values
                    .iter()
                    .map(|value| call(value.span(), "is", quote_spanned!(value.span()=> , &(#value))));
                quote!((#(#any)||*))
            }
            Test::Null(none) => call(none.span(), "is_null", TokenStream::new()),
            Test::Predicate(predicate) => {
                call(predicate.span(), "check", quote_spanned!(predicate.span()=> , #predicate))
            }
        }
    }

    /// The column's place among the model's, found by the compiler.
    fn place(&self, column: &Ident) -> TokenStream {
        let Print { krate, event } = self;
        let name = column.unraw().to_string();
        quote!(const { #krate::__private::place_of::<#event>(#name) })
    }
}

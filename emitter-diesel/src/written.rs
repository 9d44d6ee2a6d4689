//! Which columns an `UPDATE` sets, read from its SQL.
//!
//! Diesel keeps the assignments of a statement to itself, and a changeset of `Option`s sets other
//! columns each time; its SQL says which.

use std::any::TypeId;
use std::cell::RefCell;
use std::collections::HashMap;

use diesel::Table;
use diesel::backend::Backend;
use diesel::query_builder::{QueryBuilder, QueryFragment, UpdateStatement};
use emitter_core::columns::{Column, Columns};

/// The columns that an update sets. A column of the model is known by its place among those that
/// are loaded, for fields may be called otherwise than columns: those after RETURNING, or else all
/// of the table. `None` when the places do not fit.
pub(crate) fn set_by_update<T, U, V, Ret, DB>(
    update: &UpdateStatement<T, U, V, Ret>,
    columns: &[Column],
    fields: usize,
) -> Option<Columns>
where
    T: Table<AllColumns: QueryFragment<DB>> + 'static,
    UpdateStatement<T, U, V, Ret>: QueryFragment<DB>,
    DB: Backend<QueryBuilder: Default> + Default + 'static,
{
    thread_local! {
        /// The columns of each table, for writing them out takes longer than the rest of this.
        static TABLES: RefCell<HashMap<TypeId, Vec<Option<String>>>> = RefCell::default();
    }
    let all = || listed(&sql::<DB>(&T::all_columns()).unwrap_or_default());
    TABLES.with_borrow_mut(|tables| {
        set_by(
            &sql::<DB>(update)?,
            || tables.entry(TypeId::of::<(T, DB)>()).or_insert_with(all),
            columns,
            fields,
        )
    })
}

/// A fragment as the back end's SQL.
fn sql<DB: Backend<QueryBuilder: Default> + Default>(fragment: &impl QueryFragment<DB>) -> Option<String> {
    let mut builder = DB::QueryBuilder::default();
    fragment.to_sql(&mut builder, &DB::default()).ok()?;
    Some(builder.finish())
}

fn set_by<'t>(
    sql: &str,
    table: impl FnOnce() -> &'t Vec<Option<String>>,
    columns: &[Column],
    fields: usize,
) -> Option<Columns> {
    let mut words = Words { rest: sql, depth: 0 };
    let (assigned, returns) = assigned(&mut words)?;
    let returned;
    let loaded = if returns {
        returned = listed(words.rest);
        &returned
    } else {
        table()
    };
    // Else a field is loaded from several columns, and places say nothing.
    if loaded.len() != fields {
        return None;
    }
    let mut set = Columns::NONE;
    for (place, column) in columns.iter().enumerate() {
        let name = loaded.get(column.place?)?;
        if name.as_ref().is_some_and(|name| assigned.contains(&&**name)) {
            set.insert(place);
        }
    }
    Some(set)
}

/// The names on the left of the assignments, and whether a RETURNING follows, whose list is next.
fn assigned<'a>(words: &mut Words<'a>) -> Option<(Vec<&'a str>, bool)> {
    words.find(|word| *word == Word::Plain("SET"))?;
    let mut names = Vec::new();
    loop {
        let Some(Word::Quoted(name)) = words.next() else { return None };
        names.push(name);
        let next = words.find(|word| matches!(word, Word::Comma | Word::Plain("WHERE" | "RETURNING")));
        if next != Some(Word::Comma) {
            let returning = Word::Plain("RETURNING");
            return Some((names, next == Some(returning) || words.any(|word| word == returning)));
        }
    }
}

/// The columns of a list such as `` `users`.`id`, `users`.`name` ``; `None` for other expressions.
fn listed(sql: &str) -> Vec<Option<String>> {
    let mut names = Vec::new();
    let mut last = None;
    for word in (Words { rest: sql, depth: 0 }) {
        match word {
            Word::Comma => names.push(last.take()),
            Word::Quoted(name) => last = Some(name.to_owned()),
            Word::Plain(".") => {}
            Word::Plain(_) => last = None,
        }
    }
    names.push(last);
    names
}

/// What stands outside of parentheses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word<'a> {
    /// A keyword, a number, a bind parameter, an operator.
    Plain(&'a str),
    /// An identifier within its quotes; one that holds a quote itself is cut there.
    Quoted(&'a str),
    Comma,
}

struct Words<'a> {
    rest: &'a str,
    depth: usize,
}

impl<'a> Iterator for Words<'a> {
    type Item = Word<'a>;

    fn next(&mut self) -> Option<Word<'a>> {
        loop {
            self.rest = self.rest.trim_start();
            let first = self.rest.chars().next()?;
            let word = match first {
                '`' | '"' => Some(Word::Quoted(self.quoted(first)?)),
                '\'' => {
                    self.quoted(first)?;
                    None
                }
                '(' => {
                    self.skip(1);
                    self.depth += 1;
                    None
                }
                ')' => {
                    self.skip(1);
                    self.depth = self.depth.saturating_sub(1);
                    None
                }
                ',' => {
                    self.skip(1);
                    Some(Word::Comma)
                }
                _ => Some(Word::Plain(self.plain())),
            };
            if let Some(word) = word.filter(|_| self.depth == 0) {
                return Some(word);
            }
        }
    }
}

impl<'a> Words<'a> {
    fn skip(&mut self, bytes: usize) -> &'a str {
        let (skipped, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        skipped
    }

    /// What stands between two quotes; a doubled quote is one of the text.
    fn quoted(&mut self, quote: char) -> Option<&'a str> {
        self.skip(1);
        let inner = self.rest;
        let mut end = None;
        loop {
            let at = self.rest.find(quote)?;
            end = end.or(Some(inner.len() - self.rest.len() + at));
            self.skip(at + 1);
            if !self.rest.starts_with(quote) {
                return end.map(|end| &inner[..end]);
            }
            self.skip(1);
        }
    }

    fn plain(&mut self) -> &'a str {
        let stop = |c: char| c.is_whitespace() || matches!(c, '`' | '"' | '\'' | '(' | ')' | ',');
        let end = self.rest.find(stop).unwrap_or(self.rest.len());
        self.skip(end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_assigned_columns_are_named() {
        let check = |sql, expected: &[&str]| {
            let found = assigned(&mut Words { rest: sql, depth: 0 });
            assert_eq!(found.map(|(names, _)| names).as_deref(), Some(expected), "{sql}");
        };
        check("UPDATE `users` SET `name` = ?", &["name"]);
        check("UPDATE \"u\" SET \"name\" = $1, \"status\" = $2 WHERE \"u\".\"id\" = $3", &["name", "status"]);
        check(
            "UPDATE ` SET ` SET `a` = coalesce(`b`, ?, (SELECT `x`, `y` WHERE 1)), `c` = ? RETURNING `d`, `e`",
            &["a", "c"],
        );
        check("UPDATE `t` SET `a` = 'it''s, a WHERE', `b` = `b` + 1 WHERE (`c` = ',')", &["a", "b"]);
    }

    #[test]
    fn columns_are_known_by_their_places() {
        let columns =
            [Column::new("id", "id", "String", Some(0)), Column::new("name", "name", "String", Some(2))];
        let check = |sql, expected| {
            let table = listed("`t`.`id`, `t`.`hash`, `t`.`full name`");
            assert_eq!(set_by(sql, || &table, &columns, 3), expected, "{sql}");
        };
        let (neither, name) = (Columns::NONE, Columns::from_flags([false, true]));
        check("UPDATE `t` SET `full name` = ?, `other` = ?", Some(name));
        check("UPDATE `t` SET `other` = ? WHERE `id` = ?", Some(neither));
        check("UPDATE `t` SET `a` = 1 WHERE `b` = 2 RETURNING `id`, `b`, `t`.`a`", Some(name));
        check("UPDATE `t` SET `a` = 1 RETURNING `id`, `b`, count(`a`)", Some(neither));
        check("UPDATE `t` SET `a` = 1 RETURNING `id`, `a`", None);
    }

    #[test]
    fn what_is_no_update_names_nothing() {
        for sql in [
            "",
            "DELETE FROM `users`",
            "UPDATE `users` SET",
            "UPDATE `users` SET name = 1",
            "UPDATE `SET",
            "SET `",
        ] {
            assert_eq!(set_by(sql, || panic!("no column is looked for"), &[], 0), None, "{sql}");
        }
    }

    proptest! {
        /// Whatever the SQL is, it is read to its end.
        #[test]
        fn any_text_is_read(sql in "[a-zSET `\"'(),=?é]{0,60}") {
            let table = listed(&sql);
            let _ = set_by(&sql, || &table, &[Column::new("a", "a", "String", Some(0))], 1);
        }
    }
}

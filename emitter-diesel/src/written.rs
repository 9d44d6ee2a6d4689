//! Which columns an update sets and loads, read from the SQL of its parts.
//!
//! Diesel keeps the assignments of a changeset to itself, and one of `Option`s sets other columns
//! each time; its SQL says which.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use diesel::Table;
use diesel::backend::Backend;
use diesel::query_builder::{QueryBuilder, QueryFragment};
use emitter_core::columns::{Column, Columns};
use emitter_core::model::Model;

use crate::engine::Set;
use crate::update::Update;

/// An update whose columns can be told.
pub trait Describe<DB> {
    /// The columns that it sets. One of the model is known by its place among those that are
    /// loaded, for fields may be called otherwise than columns.
    fn set<M: Model>(&self) -> Set;

    /// Whether it sets a column of the table's key.
    fn sets_key(&self) -> bool;

    /// The columns that it loads, and the table's key.
    fn layout(&self) -> Arc<Layout>;
}

/// What an update loads.
#[derive(Debug, Default)]
pub struct Layout {
    /// In the order in which they are loaded.
    pub(crate) columns: Vec<Listed>,
    /// The columns of the table's key.
    pub(crate) key: Vec<Listed>,
}

impl Layout {
    fn is_key_among(&self, assigned: &[&str]) -> bool {
        self.key.iter().any(|column| column.name.as_ref().is_some_and(|name| assigned.contains(&&**name)))
    }
}

/// A column in a list such as `"users"."id", "users"."name"`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// As it stands there.
    pub(crate) sql: String,
    /// The column; `None` for other expressions.
    pub(crate) name: Option<String>,
}

impl<T, W, V, R, DB> Describe<DB> for Update<T, W, V, R>
where
    T: Table<PrimaryKey: QueryFragment<DB>> + 'static,
    V: QueryFragment<DB>,
    R: QueryFragment<DB> + 'static,
    DB: Backend<QueryBuilder: Default> + Default + 'static,
{
    fn set<M: Model>(&self) -> Set {
        let changes = sql::<DB>(&self.parts.changes).unwrap_or_default();
        let layout = Describe::<DB>::layout(self);
        let key = layout.is_key_among(&assigned(&changes).unwrap_or_default());
        Set { key, ..set_by(&changes, &layout.columns, M::COLUMNS, M::FIELDS) }
    }

    fn sets_key(&self) -> bool {
        let changes = sql::<DB>(&self.parts.changes).unwrap_or_default();
        Describe::<DB>::layout(self).is_key_among(&assigned(&changes).unwrap_or_default())
    }

    fn layout(&self) -> Arc<Layout> {
        static KNOWN: OnceLock<RwLock<HashMap<TypeId, Arc<Layout>>>> = OnceLock::new();
        let make = || Layout {
            columns: listed(&sql::<DB>(&self.parts.returning).unwrap_or_default()),
            key: listed(&sql::<DB>(&self.parts.table.primary_key()).unwrap_or_default()),
        };
        if size_of::<R>() > 0 {
            // Its type does not say all.
            return Arc::new(make());
        }
        let (known, of) = (KNOWN.get_or_init(RwLock::default), TypeId::of::<(T, R, DB)>());
        if let Some(layout) = known.read().unwrap_or_else(PoisonError::into_inner).get(&of) {
            return Arc::clone(layout);
        }
        let mut known = known.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(known.entry(of).or_insert_with(|| Arc::new(make())))
    }
}

/// A fragment as the back end's SQL.
pub(crate) fn sql<DB: Backend<QueryBuilder: Default> + Default>(
    fragment: &impl QueryFragment<DB>,
) -> Option<String> {
    let mut builder = DB::QueryBuilder::default();
    fragment.to_sql(&mut builder, &DB::default()).ok()?;
    Some(builder.finish())
}

fn set_by(changes: &str, loaded: &[Listed], columns: &[Column], fields: usize) -> Set {
    let Some(assigned) = assigned(changes) else { return Set::default() };
    // Else a field is loaded from several columns, and places say nothing.
    if loaded.len() != fields {
        return Set::default();
    }
    let (mut set, mut seen) = (Columns::NONE, 0);
    for (place, column) in columns.iter().enumerate() {
        let Some(listed) = column.place.and_then(|place| loaded.get(place)) else { return Set::default() };
        if listed.name.as_ref().is_some_and(|name| assigned.contains(&&**name)) {
            set.insert(place);
            seen += usize::from(!column.is_redacted());
        }
    }
    Set { columns: Some(set), seen: seen == assigned.len(), key: false }
}

/// The names on the left of assignments.
fn assigned(changes: &str) -> Option<Vec<&str>> {
    let mut words = Words { rest: changes, depth: 0 };
    let mut names = Vec::new();
    loop {
        let Some(Word::Quoted(name)) = words.next() else { return None };
        names.push(name);
        if !words.any(|word| word == Word::Comma) {
            return Some(names);
        }
    }
}

/// The columns of a list.
pub(crate) fn listed(sql: &str) -> Vec<Listed> {
    let mut all = Vec::new();
    let mut name = None;
    let mut words = Words { rest: sql, depth: 0 };
    let mut begin = 0;
    loop {
        let word = words.next();
        match word {
            Some(Word::Comma) | None => {
                let end = sql.len() - words.rest.len() - usize::from(word.is_some());
                all.push(Listed { sql: sql[begin..end].trim().to_owned(), name: name.take() });
                begin = end + 1;
            }
            Some(Word::Quoted(quoted)) => name = Some(quoted.to_owned()),
            Some(Word::Plain(".")) => {}
            Some(Word::Plain(_)) => name = None,
        }
        if word.is_none() {
            return all;
        }
    }
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
        let check = |sql, expected: &[&str]| assert_eq!(assigned(sql).as_deref(), Some(expected), "{sql}");
        check("`name` = ?", &["name"]);
        check("\"name\" = $1, \"status\" = $2", &["name", "status"]);
        check("`a` = coalesce(`b`, ?, (SELECT `x`, `y` WHERE 1)), `c` = ?", &["a", "c"]);
        check("`a` = 'it''s, a WHERE', `b` = `b` + 1", &["a", "b"]);
    }

    #[test]
    fn a_list_is_taken_apart() {
        let of = |sql| listed(sql).into_iter().map(|one| (one.sql, one.name)).collect::<Vec<_>>();
        let column = |sql: &str, name: &str| (sql.to_owned(), Some(name.to_owned()));
        assert_eq!(of("`t`.`id`"), [column("`t`.`id`", "id")]);
        assert_eq!(
            of("\"s\".\"t\".\"a\", count(\"t\".\"b\", 1), \"t\".\"c d\""),
            [
                column("\"s\".\"t\".\"a\"", "a"),
                ("count(\"t\".\"b\", 1)".to_owned(), None),
                column("\"t\".\"c d\"", "c d")
            ]
        );
    }

    #[test]
    fn columns_are_known_by_their_places() {
        let columns =
            [Column::new("id", "id", "String", Some(0)), Column::new("name", "name", "String", Some(2))];
        let check = |sql, fields, columns_set, seen| {
            let set = set_by(sql, &listed("`t`.`id`, `t`.`hash`, `t`.`full name`"), &columns, fields);
            assert_eq!((set.columns, set.seen), (columns_set, seen), "{sql}");
        };
        let (neither, name) = (Columns::NONE, Columns::from_flags([false, true]));
        check("`full name` = ?", 3, Some(name), true);
        check("`full name` = ?, `other` = ?", 3, Some(name), false);
        check("`other` = ?", 3, Some(neither), false);
        check("`full name` = ?", 2, None, false);
        check("full = ?", 3, None, false);
    }

    proptest! {
        /// Whatever the SQL is, it is read to its end.
        #[test]
        fn any_text_is_read(sql in "[a-z`\"'(),=?é.]{0,60}") {
            let loaded = listed(&sql);
            let _ = set_by(&sql, &loaded, &[Column::new("a", "a", "String", Some(0))], 1);
        }
    }
}

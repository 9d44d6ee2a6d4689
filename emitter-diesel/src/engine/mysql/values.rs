//! The keys of an insert, read from its SQL. Pure.

use crate::written::Listed;

/// What an insert says of the keys of its rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Values {
    /// Of each row, the columns of its key.
    pub(super) rows: Vec<Vec<Value>>,
    /// `INSERT IGNORE`
    pub(super) ignores: bool,
    /// `… ON DUPLICATE KEY UPDATE …`
    pub(super) upserts: bool,
}

/// What is inserted into a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// A bind parameter, by its number.
    Bind(usize),
    /// Nothing, or `DEFAULT`.
    Default,
    /// Something else.
    Expression,
}

impl Values {
    /// Reads `INSERT INTO t (a, b) VALUES (?, ?), (…)`; `None` for anything else.
    pub(super) fn of(sql: &str, key: &[Listed]) -> Option<Self> {
        let mut reader = Reader { rest: sql, binds: 0 };
        let head = reader.until('(')?;
        let ignores = head.split_whitespace().nth(1)?.eq_ignore_ascii_case("IGNORE");
        let columns: Vec<String> = reader.list()?.into_iter().map(|(name, _)| name).collect();
        let places: Vec<Option<usize>> = key
            .iter()
            .map(|column| columns.iter().position(|other| Some(other) == column.name.as_ref()))
            .collect();
        if !reader.until('(')?.trim().eq_ignore_ascii_case("VALUES") {
            return None;
        }
        let mut rows = Vec::new();
        loop {
            let values = reader.list()?;
            let value = |place: &Option<usize>| match place {
                None => Some(Value::Default),
                Some(place) => values.get(*place).map(|(_, value)| *value),
            };
            rows.push(places.iter().map(value).collect::<Option<_>>()?);
            match reader.rest.trim_start().strip_prefix(',') {
                Some(rest) => {
                    reader.rest = rest;
                    reader.until('(').filter(|between| between.trim().is_empty())?;
                }
                None => break,
            }
        }
        Some(Self { rows, ignores, upserts: !reader.rest.trim().is_empty() })
    }
}

struct Reader<'a> {
    rest: &'a str,
    /// How many bind parameters were passed.
    binds: usize,
}

impl<'a> Reader<'a> {
    /// What stands before this character outside of quotes, which is passed.
    fn until(&mut self, end: char) -> Option<&'a str> {
        let from = self.rest;
        loop {
            let at = self.rest.find(|c| c == end || is_quote(c))?;
            let found = self.rest[at..].chars().next()?;
            self.rest = &self.rest[at + found.len_utf8()..];
            if found == end {
                return Some(&from[..from.len() - self.rest.len() - found.len_utf8()]);
            }
            self.quoted(found)?;
        }
    }

    /// What stands up to the closing quote, which is passed.
    fn quoted(&mut self, quote: char) -> Option<&'a str> {
        let at = self.rest.find(quote)?;
        let inner = &self.rest[..at];
        self.rest = &self.rest[at + quote.len_utf8()..];
        Some(inner)
    }

    /// The items up to the closing parenthesis, which is passed: the last name in each, and what it is.
    fn list(&mut self) -> Option<Vec<(String, Value)>> {
        let mut items = Vec::new();
        let (mut depth, mut name, mut value, mut begun) = (0_usize, String::new(), None, self.rest);
        loop {
            let c = self.rest.chars().next()?;
            let here = self.rest;
            self.rest = &self.rest[c.len_utf8()..];
            match c {
                '`' => name = self.quoted(c)?.to_owned(),
                '\'' | '"' => {
                    self.quoted(c)?;
                }
                '?' => {
                    value = Some(Value::Bind(self.binds));
                    self.binds += 1;
                }
                '(' => depth += 1,
                ')' if depth > 0 => depth -= 1,
                ',' | ')' if depth == 0 => {
                    let text = begun[..begun.len() - here.len()].trim();
                    if !(text.is_empty() && items.is_empty() && c == ')') {
                        let value = match (text, value.take()) {
                            ("?", Some(bind)) => bind,
                            (text, _) if text.eq_ignore_ascii_case("DEFAULT") => Value::Default,
                            _ => Value::Expression,
                        };
                        items.push((std::mem::take(&mut name), value));
                    }
                    if c == ')' {
                        return Some(items);
                    }
                    begun = self.rest;
                }
                _ => {}
            }
        }
    }
}

fn is_quote(c: char) -> bool {
    matches!(c, '`' | '\'' | '"')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(names: &[&str]) -> Vec<Listed> {
        names
            .iter()
            .map(|name| Listed { sql: format!("`t`.`{name}`"), name: Some((*name).to_owned()) })
            .collect()
    }

    fn check(sql: &str, names: &[&str], expected: &[&[Value]]) {
        let values = Values::of(sql, &key(names)).unwrap_or_else(|| panic!("{sql}"));
        assert_eq!(values.rows, expected, "{sql}");
    }

    #[test]
    fn keys_are_found_among_the_values() {
        use Value::{Bind, Default, Expression};
        check("INSERT INTO `t` (`id`, `name`) VALUES (?, ?)", &["id"], &[&[Bind(0)]]);
        check(
            "INSERT INTO `t` (`name`, `id`) VALUES (?, ?), (lower(?), ?)",
            &["id"],
            &[&[Bind(1)], &[Bind(3)]],
        );
        check("INSERT INTO `t` (`name`) VALUES (?), (?)", &["id"], &[&[Default], &[Default]]);
        check("INSERT INTO `t` (`id`, `name`) VALUES (DEFAULT, ?)", &["id"], &[&[Default]]);
        check("INSERT INTO `t` () VALUES ()", &["id"], &[&[Default]]);
        check(
            "INSERT INTO `a(b` (`x,y`, `b`) VALUES (concat('(?', ?), ?)",
            &["b", "x,y"],
            &[&[Bind(1), Expression]],
        );
    }

    #[test]
    fn what_else_it_says() {
        let of = |sql| Values::of(sql, &key(&["id"])).map(|values| (values.ignores, values.upserts));
        assert_eq!(of("INSERT INTO `t` (`id`) VALUES (?)"), Some((false, false)));
        assert_eq!(of("INSERT IGNORE INTO `t` (`id`) VALUES (?)"), Some((true, false)));
        assert_eq!(
            of("INSERT INTO `t` (`id`) VALUES (?) ON DUPLICATE KEY UPDATE `id` = (?)"),
            Some((false, true))
        );
        for other in
            ["", "INSERT", "INSERT INTO `t` (`id`) SELECT `id` FROM `u` WHERE (1)", "INSERT INTO `t` (`id`"]
        {
            assert_eq!(of(other), None, "{other}");
        }
    }

    proptest! {
        /// Whatever the SQL is, it is read to its end.
        #[test]
        fn any_text_is_read(sql in "[A-Z`'\"(),? é]{0,60}") {
            let _ = Values::of(&sql, &key(&["A"]));
        }
    }
}

//! What the databases say differently.
//!
//! Statements of the framework's own are text without parameters: so the same ones run on every connection that
//! can run SQL at all, and on PostgreSQL a row's INSERT and the COMMIT are one message.

use std::fmt::{Display, Write};

/// What every connection answers that is there.
pub(crate) const PROBE: &str = "SELECT 1";

/// A database's SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// PostgreSQL, 13 or later.
    Postgres,
    /// SQLite, 3.35 or later.
    Sqlite,
    /// MySQL 8 and MariaDB 10.5, or later.
    MySql,
}

impl Dialect {
    /// That of a Diesel back end.
    pub(crate) fn of<DB: 'static>() -> Option<Self> {
        let _backend = std::any::TypeId::of::<DB>();
        #[cfg(feature = "_postgres")]
        if _backend == std::any::TypeId::of::<diesel::pg::Pg>() {
            return Some(Self::Postgres);
        }
        #[cfg(feature = "sqlite")]
        if _backend == std::any::TypeId::of::<diesel::sqlite::Sqlite>() {
            return Some(Self::Sqlite);
        }
        #[cfg(feature = "_mysql")]
        if _backend == std::any::TypeId::of::<diesel::mysql::Mysql>() {
            return Some(Self::MySql);
        }
        None
    }

    /// Writes a text as a literal. A NUL, which no database takes in a text, becomes U+FFFD.
    pub(crate) fn text(self, sql: &mut String, text: &str) {
        if text.contains('\0') {
            return self.text(sql, &text.replace('\0', "\u{fffd}"));
        }
        match self {
            // Whether a backslash escapes is a setting; within dollars it never does.
            Self::Postgres => {
                let tag = tag(text);
                sql.extend([&tag, text, &tag]);
            }
            Self::Sqlite => {
                sql.push('\'');
                text.split_inclusive('\'').for_each(|part| {
                    sql.push_str(part);
                    if part.ends_with('\'') {
                        sql.push('\'');
                    }
                });
                sql.push('\'');
            }
            // The same: here nothing can be an escape.
            Self::MySql => {
                sql.push_str("CONVERT(X'");
                for byte in text.bytes() {
                    const DIGITS: &[u8; 16] = b"0123456789abcdef";
                    sql.push(DIGITS[usize::from(byte >> 4)].into());
                    sql.push(DIGITS[usize::from(byte & 15)].into());
                }
                sql.push_str("' USING utf8mb4)");
            }
        }
    }

    /// A text that may be absent.
    pub(crate) fn optional(self, sql: &mut String, text: Option<&str>) {
        match text {
            Some(text) => self.text(sql, text),
            None => sql.push_str("NULL"),
        }
    }

    /// A text as a literal.
    pub(crate) fn quoted(self, text: &str) -> String {
        let mut sql = String::with_capacity(text.len() + 8);
        self.text(&mut sql, text);
        sql
    }

    /// That a text is like a pattern, in which `*` stands for anything.
    pub(crate) fn like(self, column: &str, pattern: &str) -> String {
        let mut escaped = String::with_capacity(pattern.len());
        for letter in pattern.chars() {
            match (self, letter) {
                (Self::Sqlite, '?' | '[') => escaped.extend(['[', letter, ']']),
                (Self::Sqlite, _) => escaped.push(letter),
                (_, '*') => escaped.push('%'),
                (_, '%' | '_' | '!') => escaped.extend(['!', letter]),
                _ => escaped.push(letter),
            }
        }
        let pattern = self.quoted(&escaped);
        match self {
            // Its LIKE does not tell upper and lower case apart.
            Self::Sqlite => format!("{column} GLOB {pattern}"),
            Self::Postgres | Self::MySql => format!("{column} LIKE {pattern} ESCAPE '!'"),
        }
    }

    /// The database's clock, in milliseconds since 1970. It goes on within a transaction.
    pub(crate) const fn now(self) -> &'static str {
        match self {
            Self::Postgres => "(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
            Self::Sqlite => "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
            Self::MySql => "CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)",
        }
    }

    /// What is said on a new connection of the framework's own.
    pub(crate) const fn greeting(self) -> &'static str {
        match self {
            Self::Postgres => "",
            // What writes meanwhile is waited for.
            Self::Sqlite => "PRAGMA busy_timeout = 10000",
            // Its default locks rows beside those that are meant, so that relays would hinder each other. And there is
            // an hour that a time zone has twice.
            Self::MySql => "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; SET time_zone = '+00:00'",
        }
    }

    /// The same as what the tables' times are.
    pub(crate) const fn timestamp(self) -> &'static str {
        match self {
            Self::Postgres => "clock_timestamp()",
            Self::Sqlite => "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')",
            Self::MySql => "UTC_TIMESTAMP(3)",
        }
    }

    /// Statements that happen all or not at all, in one message to the database.
    pub(crate) fn atomic(self, statements: &[String]) -> String {
        let mut sql = String::with_capacity(statements.iter().map(|one| one.len() + 2).sum::<usize>() + 32);
        sql.push_str(match self {
            // What comes in one message is one transaction there.
            Self::Postgres => "",
            Self::Sqlite => "BEGIN IMMEDIATE; ",
            Self::MySql => "START TRANSACTION; ",
        });
        for statement in statements {
            sql.extend([statement, "; "]);
        }
        if self != Self::Postgres {
            sql.push_str("COMMIT");
        }
        sql
    }
}

/// Numbers as a list for `IN (…)`, which is never empty: no row has the number -1.
pub(crate) fn list(numbers: impl IntoIterator<Item = i64>) -> String {
    let mut sql = String::from("-1");
    for number in numbers {
        // Writing to a `String` cannot fail.
        let _ = write!(sql, ",{number}");
    }
    sql
}

/// Literals as a list for `IN (…)`, which is never empty: nothing equals NULL.
pub(crate) fn list_of(literals: impl IntoIterator<Item = String>) -> String {
    let mut sql = String::from("NULL");
    for literal in literals {
        sql.push_str(", ");
        sql.push_str(&literal);
    }
    sql
}

/// Numbers as a literal of PostgreSQL's that can be cast to an array.
pub(crate) fn array(numbers: impl IntoIterator<Item = impl Display>) -> String {
    let mut sql = String::from("'{");
    for (place, number) in numbers.into_iter().enumerate() {
        // Writing to a `String` cannot fail.
        let _ = write!(sql, "{}{number}", if place == 0 { "" } else { "," });
    }
    sql + "}'"
}

/// What begins and ends a literal of PostgreSQL, such as `$e0$`, and is nowhere in between.
fn tag(text: &str) -> String {
    loop {
        // At random: whoever writes the text cannot know it.
        let tag = format!("$e{:x}$", fastrand::u64(..));
        // Also where the text's end and the tag's beginning make one together.
        if format!("{text}{tag}").find(&tag) == Some(text.len()) {
            return tag;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As PostgreSQL's lexer does: up to the first tag that is like the one at the beginning.
    fn read(sql: &str) -> Option<(&str, &str)> {
        let end = sql[1..].find('$')? + 2;
        let (tag, rest) = sql.split_at(end);
        rest.split_once(tag)
    }

    proptest! {
        #[test]
        fn postgres_reads_what_was_written(text in "[a-z$e0-3' \\\\]{0,20}", rest in "[$e0, ]{0,5}") {
            let mut sql = Dialect::Postgres.quoted(&text);
            sql.push(',');
            sql.push_str(&rest);
            let after = format!(",{rest}");
            prop_assert_eq!(read(&sql), Some((&*text, &*after)));
        }

        #[test]
        fn sqlite_reads_what_was_written(text in "[a-z' \\\\\"]{0,20}") {
            let sql = Dialect::Sqlite.quoted(&text);
            let inner = sql.strip_prefix('\'').and_then(|sql| sql.strip_suffix('\'')).unwrap();
            prop_assert_eq!(inner.replace("''", "\u{1}").contains('\''), false);
            prop_assert_eq!(inner.replace("''", "'"), text);
        }

        #[test]
        fn mysql_reads_what_was_written(text in any::<String>()) {
            let sql = Dialect::MySql.quoted(&text);
            let hex = sql.strip_prefix("CONVERT(X'").and_then(|sql| sql.strip_suffix("' USING utf8mb4)")).unwrap();
            let bytes: Vec<u8> = (0..hex.len()).step_by(2)
                .map(|place| u8::from_str_radix(&hex[place..place + 2], 16).unwrap()).collect();
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), text.replace('\0', "\u{fffd}"));
        }
    }

    #[test]
    fn a_text_that_knows_the_tag_does_not_end_it() {
        for text in ["$e0$; DROP TABLE users; --", "abc$e0", "$e0$$e1$", "$", "$e0", ""] {
            let sql = Dialect::Postgres.quoted(text);
            assert_eq!(read(&sql), Some((text, "")), "{sql}");
        }
    }
}

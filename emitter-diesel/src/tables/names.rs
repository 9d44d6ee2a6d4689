//! What the tables are called.

use std::fmt;

/// What the framework's tables are called: `{prefix}outbox` and so on, in a schema or in none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    schema: Option<String>,
    prefix: String,
}

/// A part of a name that SQL would not take as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be a part of a table's name: use 1 to {MAX} letters, digits and '_', and no digit first"
)]
pub struct BadName(String);

/// So long, that with what follows it is no longer than databases allow (63 bytes in PostgreSQL).
const MAX: usize = 40;

impl Default for Names {
    /// `emitter_outbox` and so on, where the connection looks first.
    fn default() -> Self {
        Self { schema: None, prefix: "emitter_".to_owned() }
    }
}

impl Names {
    /// Tables whose names begin with this.
    ///
    /// # Errors
    /// [`BadName`]
    pub fn with_prefix(prefix: impl Into<String>) -> Result<Self, BadName> {
        Ok(Self { schema: None, prefix: checked(prefix.into())? })
    }

    /// The same in this schema, which has to be there: on MySQL and MariaDB a database, on SQLite one that is attached
    /// under this name, by the function that [`Tables::new`](super::Tables::new) is given and on your own connections alike.
    ///
    /// Where one of the files is in WAL mode, SQLite commits each by itself: a process that is killed in the middle of a COMMIT may
    /// leave a row without its durable event, or a mark without its effect. A start says so. Keep the tables in the file of your rows,
    /// or have both files in another mode.
    ///
    /// # Errors
    /// [`BadName`]
    pub fn in_schema(self, schema: impl Into<String>) -> Result<Self, BadName> {
        Ok(Self { schema: Some(checked(schema.into())?), ..self })
    }

    /// The schema that was said.
    pub(crate) fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The name of one table as it is written in SQL.
    pub(crate) fn table<'n>(&'n self, table: &'n str) -> impl fmt::Display + 'n {
        Qualified { names: self, table }
    }

    /// The name of something that belongs to a table, and is in no schema by itself.
    pub(crate) fn index<'n>(&'n self, index: &'n str) -> impl fmt::Display + 'n {
        Unqualified { names: self, index }
    }
}

struct Qualified<'n> {
    names: &'n Names,
    table: &'n str,
}

impl fmt::Display for Qualified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.names.schema {
            write!(f, "{schema}.")?;
        }
        write!(f, "{}{}", self.names.prefix, self.table)
    }
}

struct Unqualified<'n> {
    names: &'n Names,
    index: &'n str,
}

impl fmt::Display for Unqualified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.names.prefix, self.index)
    }
}

fn checked(part: String) -> Result<String, BadName> {
    let good = (1..=MAX).contains(&part.len())
        && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !part.starts_with(|first: char| first.is_ascii_digit());
    if good { Ok(part) } else { Err(BadName(part)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_sql_takes_as_it_is() {
        assert_eq!(Names::default().table("outbox").to_string(), "emitter_outbox");
        let names = Names::with_prefix("shop_").unwrap().in_schema("events").unwrap();
        assert_eq!(names.table("outbox").to_string(), "events.shop_outbox");
        assert_eq!(names.index("outbox_lane").to_string(), "shop_outbox_lane");
        let long = "a".repeat(MAX + 1);
        for bad in ["", "1a", "a-b", "a b", "a\"b", "a;b", "ä", &long] {
            assert_eq!(Names::with_prefix(bad), Err(BadName(bad.to_owned())));
            assert!(Names::default().in_schema(bad).is_err(), "{bad}");
        }
    }
}

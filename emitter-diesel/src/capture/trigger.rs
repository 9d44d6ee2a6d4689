//! The triggers of a captured table, as SQL.
//!
//! Names of users' tables and columns are Diesel's, quoted here; names that the framework's functions use are
//! written out with their schemas, for these functions run with the rights of who installed them, whatever the
//! writer's `search_path` is.

use emitter_core::Key;

use crate::queries::comment;
use crate::tables::Names;

/// A table with what is to be known of its model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Traced {
    pub(super) model: &'static str,
    /// As SQL, with its schema where `table!` says one.
    pub(super) table: String,
    /// In the order in which they are loaded.
    pub(super) columns: Vec<Column>,
    pub(super) events: Option<Actions>,
    pub(super) audit: bool,
}

/// A column of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) seen: Seen,
    pub(super) is_key: bool,
}

/// Who sees a column's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Listeners.
    Plain,
    /// Listeners see its hash, which only the program can make.
    Hashed,
    /// Nobody: it is skipped or redacted.
    Never,
}

/// What the model has events for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Actions {
    pub(super) insert: bool,
    pub(super) update: bool,
    pub(super) delete: bool,
}

/// A trigger function and its triggers.
struct Function {
    name: String,
    /// A template for PostgreSQL's `format`: `%1$s` is the table that it writes to, `%2$L` the outbox's sequence.
    body: String,
    /// The table of the framework's that it writes to, and the name of each trigger with when it fires.
    into: &'static str,
    triggers: Vec<(String, String)>,
}

/// The highest number of triggers that a function has.
const MOST_TRIGGERS: usize = 3;

impl Traced {
    /// Makes the triggers, or leaves them as they are where they are these already: then nothing is locked.
    pub(super) fn install(&self, names: &Names) -> String {
        let functions = self.functions(names);
        functions.iter().map(|function| self.block(&self.install_one(function, names)) + ";\n").collect()
    }

    /// Takes the triggers away, whatever they were.
    pub(super) fn remove(&self, names: &Names) -> String {
        let both = [("capture", "captured"), ("audit", "audit_log")];
        let blocks = both.map(|(kind, into)| {
            let function = self.name(names, kind, "");
            let drops = (1..=MOST_TRIGGERS).map(|number| {
                let trigger = self.name(names, kind, &format!("_{number}"));
                format!("  DROP TRIGGER IF EXISTS {trigger} ON {};\n", self.table)
            });
            let drops: String = drops.collect();
            self.block(&format!(
                "BEGIN\n{}{drops}  EXECUTE pg_catalog.format('DROP FUNCTION IF EXISTS %s()', fn);\n",
                home(names, into, &function)
            ))
        });
        blocks.map(|block| block + ";\n").concat()
    }

    /// How many of the functions that there should be are there as they should be, as a query for a number.
    pub(super) fn installed(&self, names: &Names) -> (String, usize) {
        let functions = self.functions(names);
        let each: Vec<String> = functions
            .iter()
            .map(|function| {
                let is_there = self.is_there(function);
                format!("SELECT 'there' AS text, CASE WHEN {is_there} THEN 1::bigint ELSE 0 END AS number")
            })
            .collect();
        (each.join(" UNION ALL "), functions.len())
    }

    fn functions(&self, names: &Names) -> Vec<Function> {
        let capture = self.events.map(|actions| self.capture(names, actions));
        let audit = self.audit.then(|| self.log(names));
        capture.into_iter().chain(audit).collect()
    }

    fn capture(&self, names: &Names, actions: Actions) -> Function {
        let columns = |seen: Seen| seen != Seen::Never;
        let body = format!(
            "BEGIN\n  INSERT INTO %1$s (id, model, table_name, action, before, after) VALUES (\n    \
             pg_catalog.nextval(%2$L), {}, {}, TG_OP,\n    {},\n    {});\n  RETURN NULL;\nEND",
            template(&literal(self.model)),
            template(&literal(&self.table)),
            template(&self.image("OLD", "INSERT", columns)),
            template(&self.image("NEW", "DELETE", columns)),
        );
        // What the program tells of itself; but not what its statement had other triggers or a cascade do.
        let told = format!(
            "pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.=) 0 AND \
             COALESCE(pg_catalog.starts_with(pg_catalog.current_query(), '{}'), false)",
            comment(self.model)
        );
        let is_off =
            "COALESCE(pg_catalog.current_setting('emitter.capture', true), '') OPERATOR(pg_catalog.=) 'off'";
        let when = format!("NOT ({told}) AND NOT ({is_off})");
        let mut triggers = Vec::new();
        let rows: Vec<&str> = [(actions.insert, "INSERT"), (actions.delete, "DELETE")]
            .into_iter()
            .filter_map(|(is_event, action)| is_event.then_some(action))
            .collect();
        if !rows.is_empty() {
            triggers.push(format!("{} ON {} FOR EACH ROW WHEN ({when})", rows.join(" OR "), self.table));
        }
        if actions.update {
            triggers.push(format!("UPDATE ON {} FOR EACH ROW WHEN ({CHANGED} AND {when})", self.table));
        }
        self.function(names, "capture", "captured", &body, triggers)
    }

    fn log(&self, names: &Names) -> Function {
        let columns = |seen: Seen| seen == Seen::Plain;
        let into = "INSERT INTO %1$s (table_name, record_id, old_values, new_values, action, transaction_id, \
                    db_user, application_name)";
        let by = "TG_OP,\n    (pg_catalog.pg_current_xact_id()::pg_catalog.text)::pg_catalog.int8, session_user, \
                  pg_catalog.current_setting('application_name')";
        let body = format!(
            "BEGIN\n  IF TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' THEN\n    {into} VALUES ({table}, NULL, NULL, NULL, {by});\n    \
             RETURN NULL;\n  END IF;\n  {into} VALUES ({table},\n    \
             CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN {old_key} ELSE {new_key} END,\n    {old},\n    {new}, {by});\n  \
             RETURN NULL;\nEND",
            table = template(&literal(&self.table)),
            old_key = template(&self.key("OLD")),
            new_key = template(&self.key("NEW")),
            old = template(&self.image("OLD", "INSERT", columns)),
            new = template(&self.image("NEW", "DELETE", columns)),
        );
        let triggers = vec![
            format!("INSERT OR DELETE ON {} FOR EACH ROW", self.table),
            format!("UPDATE ON {} FOR EACH ROW WHEN ({CHANGED})", self.table),
            format!("TRUNCATE ON {} FOR EACH STATEMENT", self.table),
        ];
        self.function(names, "audit", "audit_log", &body, triggers)
    }

    fn function(
        &self,
        names: &Names,
        kind: &str,
        into: &'static str,
        body: &str,
        triggers: Vec<String>,
    ) -> Function {
        // So that it is seen whether the one that is there is this one.
        let mark = fingerprint(&format!("{SETTINGS}\0{body}\0{}", triggers.join("\0")));
        let name = |(place, when)| (self.name(names, kind, &format!("_{}", place + 1)), when);
        Function {
            name: self.name(names, kind, ""),
            body: format!("-- {mark}\n{body}"),
            into,
            triggers: triggers.into_iter().enumerate().map(name).collect(),
        }
    }

    /// One for each table and model: a table's name may be longer than a part of another name may be.
    fn name(&self, names: &Names, kind: &str, number: &str) -> String {
        let of = fingerprint(&format!("{}\0{}", self.table, self.model));
        names.index(&format!("{kind}_{}{number}", &of[..10])).to_string()
    }

    fn install_one(&self, function: &Function, names: &Names) -> String {
        let Function { name, body, into, triggers } = function;
        let create = format!(
            "CREATE OR REPLACE FUNCTION %3$s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {SETTINGS} AS {}",
            dollars(body)
        );
        let sequence = format!("pg_catalog.pg_get_serial_sequence({}, 'id')", literal(&at(names, "outbox")));
        let mut sql = format!(
            "BEGIN\n  PERFORM pg_catalog.pg_advisory_xact_lock({LOCK});\n  IF {} THEN\n    RETURN;\n  END IF;\n{}  \
             EXECUTE pg_catalog.format({}, into_table, {sequence}, fn);\n  \
             EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s() FROM PUBLIC', fn);\n",
            self.is_there(function),
            home(names, into, name),
            dollars(&create),
        );
        let dropped = (1..=MOST_TRIGGERS).map(|number| {
            let kind = if *into == "captured" { "capture" } else { "audit" };
            let trigger = self.name(names, kind, &format!("_{number}"));
            format!("  DROP TRIGGER IF EXISTS {trigger} ON {};\n", self.table)
        });
        sql.extend(dropped);
        for (trigger, when) in triggers {
            let create = format!("CREATE TRIGGER {trigger} AFTER {} EXECUTE FUNCTION %s()", template(when));
            sql.push_str(&format!("  EXECUTE pg_catalog.format({}, fn);\n", dollars(&create)));
        }
        sql
    }

    /// Whether its triggers are there, all of them, fire, and call this function.
    fn is_there(&self, function: &Function) -> String {
        let mark = function.body.lines().next().unwrap_or_default();
        let names: Vec<String> =
            function.triggers.iter().map(|(name, _)| format!("'{}'", name.to_lowercase())).collect();
        format!(
            "(SELECT count(*) FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid \
             WHERE t.tgrelid = pg_catalog.to_regclass({}) AND t.tgname IN ({}) AND t.tgenabled IN ('O', 'A') \
             AND pg_catalog.starts_with(p.prosrc, '{mark}')) = {}",
            literal(&self.table),
            names.join(", "),
            names.len(),
        )
    }

    /// A block that knows the framework's table and function by their whole names.
    fn block(&self, sql: &str) -> String {
        format!("DO {}", dollars(&format!("\nDECLARE\n  into_table text;\n  fn text;\n{sql}END\n")))
    }

    /// Those columns of a row as JSON; NULL where there is no such row.
    fn image(&self, of: &str, without: &str, columns: impl Fn(Seen) -> bool) -> String {
        let columns = self.columns.iter().filter(|column| columns(column.seen));
        let columns: Vec<String> = columns.map(|column| format!("{of}.{}", quoted(&column.name))).collect();
        format!(
            "CASE WHEN TG_OP OPERATOR(pg_catalog.<>) '{without}' THEN \
             (SELECT pg_catalog.row_to_json(emitter_row.*) FROM (SELECT {}) AS emitter_row) END",
            columns.join(", ")
        )
    }

    /// The key of a row as text.
    fn key(&self, of: &str) -> String {
        let key = self.columns.iter().filter(|column| column.is_key);
        let key: Vec<String> = key.map(|column| format!("{of}.{}", quoted(&column.name))).collect();
        format!("pg_catalog.concat_ws(',', {})", key.join(", "))
    }
}

/// The rows differ, whether their types know equality or not.
const CHANGED: &str = "OLD OPERATOR(pg_catalog.*<>) NEW";

/// By the writer's own, numbers would be rounded, and dates, intervals and amounts of money might be read as others.
const SETTINGS: &str = "SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1 SET datestyle = 'ISO' \
                        SET intervalstyle = 'postgres' SET lc_monetary = 'C'";

/// A number of our own: who installs waits for others who do.
const LOCK: i64 = 7_246_811_902_554;

/// Finds the table that is written to, and the schema in which the function is.
fn home(names: &Names, into: &str, function: &str) -> String {
    format!(
        "  SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.format('%I.{function}', n.nspname)\n    \
         INTO STRICT into_table, fn FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace\n    \
         WHERE c.oid = {}::pg_catalog.regclass;\n",
        literal(&at(names, into))
    )
}

fn at(names: &Names, table: &str) -> String {
    names.table(table).to_string()
}

/// Sixteen digits that stand for a text.
pub(super) fn fingerprint(text: &str) -> String {
    format!("{:016x}", Key::Text(text.into()).stable_hash())
}

/// An identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What an identifier names.
pub(super) fn unquoted(sql: &str) -> Option<String> {
    let inner = sql.strip_prefix('"')?.strip_suffix('"')?;
    let name = inner.replace("\"\"", "\u{0}");
    (!name.contains('"')).then(|| name.replace('\u{0}', "\""))
}

/// A text as a literal, the same each time: what is printed is kept under version control.
fn literal(text: &str) -> String {
    // Whether a backslash escapes is a setting.
    if text.contains('\\') { dollars(text) } else { format!("'{}'", text.replace('\'', "''")) }
}

/// A text between dollar signs.
fn dollars(text: &str) -> String {
    let mut tag = "$emitter$".to_owned();
    let mut number = 0;
    // Also where the text's end and the tag's beginning make one together.
    while format!("{text}{tag}").find(&tag) != Some(text.len()) {
        number += 1;
        tag = format!("$emitter{number}$");
    }
    format!("{tag}{text}{tag}")
}

/// A text that PostgreSQL's `format` leaves as it is.
fn template(text: &str) -> String {
    text.replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn traced(columns: &[(&str, Seen)]) -> Traced {
        let column = |(name, seen): &(&str, Seen)| Column {
            name: (*name).to_owned(),
            seen: *seen,
            is_key: *name == "id",
        };
        Traced {
            model: "user",
            table: "\"users\"".to_owned(),
            columns: columns.iter().map(column).collect(),
            events: Some(Actions { insert: true, update: true, delete: true }),
            audit: true,
        }
    }

    #[test]
    fn what_is_printed_is_the_same_each_time_and_names_no_hidden_column() {
        let columns = [("id", Seen::Plain), ("email", Seen::Hashed), ("password", Seen::Never)];
        let sql = traced(&columns).install(&Names::default());
        assert_eq!(sql, traced(&columns).install(&Names::default()));
        assert!(!sql.contains("password"), "{sql}");
        let (capture, audit) = sql.split_once("emitter_audit_log").unwrap();
        assert!(capture.contains("email") && !audit.contains("email"), "{sql}");
    }

    #[test]
    fn other_columns_and_other_operations_are_another_trigger() {
        let names = Names::default();
        let one = traced(&[("id", Seen::Plain)]);
        let mut other = one.clone();
        other.events = Some(Actions { insert: true, update: false, delete: true });
        assert_ne!(one.installed(&names), other.installed(&names));
        assert_ne!(
            one.installed(&names),
            traced(&[("id", Seen::Plain), ("name", Seen::Plain)]).installed(&names)
        );
    }

    #[test]
    fn names_are_as_long_as_the_database_allows() {
        let names = Names::with_prefix("p".repeat(40)).unwrap();
        let traced = traced(&[("id", Seen::Plain)]);
        assert!(traced.name(&names, "capture", "_1").len() <= 63);
    }

    proptest! {
        #[test]
        fn nothing_ends_what_stands_between_dollars(text in "[$emitr1-3 ]{0,24}", after in "[$emitr ]{0,5}") {
            let sql = dollars(&text) + &after;
            let tag = &sql[..sql[1..].find('$').unwrap() + 2];
            prop_assert_eq!(sql[tag.len()..].split_once(tag), Some((&*text, &*after)));
        }

        #[test]
        fn an_identifier_is_read_as_it_was_written(name in "[a-z\"'.$% \\\\]{1,12}") {
            prop_assert_eq!(unquoted(&quoted(&name)), Some(name));
        }
    }
}

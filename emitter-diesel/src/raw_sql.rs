//! Finds in SQL the statements that begin or end transactions, and the tables that are written to.
//!
//! Pure. It knows just enough of SQL for that: comments, quotes, and where a statement begins.

/// Whether any statement of a batch begins or ends a transaction or a savepoint.
///
/// The body of a `CREATE TRIGGER` or of a procedure may have `BEGIN` and `END` in it: from the
/// first such statement on, nothing is looked at.
pub(crate) fn controls_transactions(batch: &str) -> bool {
    for statement in statements(batch) {
        let mut words =
            statement.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        let first = words.next().unwrap_or_default().to_ascii_lowercase();
        if first == "create" && has_body(&statement) {
            return false;
        }
        if first == "prepare" && words.next().is_some_and(|word| word.eq_ignore_ascii_case("transaction")) {
            return true;
        }
        if matches!(
            first.as_str(),
            "begin" | "start" | "commit" | "end" | "rollback" | "savepoint" | "release" | "abort"
        ) {
            return true;
        }
    }
    false
}

/// Whether a `CREATE` is one of a trigger or a procedure, which says so before its first parenthesis.
fn has_body(statement: &str) -> bool {
    let head = statement.split('(').next().unwrap_or_default();
    head.split_whitespace()
        .any(|word| ["trigger", "function", "procedure"].iter().any(|body| word.eq_ignore_ascii_case(body)))
}

/// What a statement does to a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Insert,
    Update,
    Delete,
}

/// A write that a statement asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) verb: Verb,
    /// The table's name, without its schema and without quotes.
    pub(crate) table: String,
}

/// The writes of a batch, also those in a `WITH`. What a procedure or a trigger does is not among
/// them.
pub(crate) fn writes(batch: &str) -> Vec<Write> {
    let mut found = Vec::new();
    let words = words(batch);
    let mut explained = false;
    // What stands before a word, for `FOR UPDATE`, `ON DELETE`, `DO UPDATE` and their like.
    for (place, word) in words.iter().enumerate() {
        let before = place.checked_sub(1).map_or("", |place| &words[place]);
        let after = &words[place + 1..];
        if matches!(before, "" | ";") {
            if word == "create" && makes_code(after) {
                break;
            }
            // It says how it would be done. With ANALYZE it is.
            explained = matches!(&**word, "explain" | "describe" | "desc")
                && !after.iter().take_while(|word| *word != ";").take(8).any(|word| word == "analyze");
        }
        if explained {
            continue;
        }
        let verb = match (before, &**word) {
            ("for" | "key" | "do" | "on" | ".", _) => continue,
            // To a file.
            ("" | ";", "copy") if after.iter().take_while(|word| *word != ";").any(|word| word == "to") => {
                continue;
            }
            (_, "insert" | "replace" | "merge") | ("" | ";", "copy") => Verb::Insert,
            (_, "update") => Verb::Update,
            (_, "delete") | ("" | ";", "truncate") => Verb::Delete,
            _ => continue,
        };
        // `INSERT OR IGNORE INTO`, `UPDATE ONLY`, `TRUNCATE TABLE IF EXISTS` …
        let noise = |word: &&String| {
            matches!(
                &***word,
                "or" | "ignore"
                    | "replace"
                    | "abort"
                    | "rollback"
                    | "fail"
                    | "into"
                    | "only"
                    | "from"
                    | "low_priority"
                    | "high_priority"
                    | "delayed"
                    | "quick"
                    | "table"
                    | "if"
                    | "exists"
            )
        };
        let skipped = after.iter().take_while(noise).count();
        if matches!(&**word, "insert" | "replace" | "merge" | "delete") && skipped == 0 {
            // The function `replace(…)` and the like.
            continue;
        }
        if let Some(table) = last_of_path(&after[skipped..]) {
            found.push(Write { verb, table: table.to_owned() });
        }
    }
    found
}

/// The last name of `schema.table`.
fn last_of_path(words: &[String]) -> Option<&str> {
    let dots = words.iter().skip(1).step_by(2).take_while(|word| *word == ".").count();
    let name = words.get(dots * 2).filter(|name| !matches!(&***name, ";" | "(" | "."))?;
    Some(name.strip_prefix('"').unwrap_or(name))
}

fn makes_code(words: &[String]) -> bool {
    let head = words.iter().take_while(|word| *word != "(" && *word != ";");
    head.into_iter().any(|word| matches!(&**word, "trigger" | "function" | "procedure"))
}

/// The words of a batch in lower case, and its quoted names as they are behind one `"`, with `;`, `.`
/// and `(` between them; of literals and everything else there is nothing.
fn words(batch: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = batch;
    while let Some(c) = rest.chars().next() {
        let quoted = matches!(c, '"' | '`').then(|| rest[1..].split_once(c)).flatten();
        if let Some((name, after)) = quoted {
            words.push(format!("\"{name}"));
            rest = after;
        } else if let Some(after) = after_comment_or_quote(rest) {
            rest = after;
        } else if c.is_alphanumeric() || c == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            words.push(rest[..end].to_lowercase());
            rest = &rest[end..];
        } else {
            if matches!(c, ';' | '.' | '(') {
                words.push(c.to_string());
            }
            rest = &rest[c.len_utf8()..];
        }
    }
    words
}

/// The statements of a batch, without comments, and with every quoted part replaced by a space.
fn statements(batch: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut statement = String::new();
    let mut rest = batch;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = after_comment_or_quote(rest) {
            rest = after;
            statement.push(' ');
            continue;
        }
        rest = &rest[c.len_utf8()..];
        match c {
            ';' => statements.push(std::mem::take(&mut statement)),
            c => statement.push(c),
        }
    }
    statements.push(statement);
    statements
}

/// What follows the comment or the quoted part with which `text` begins, if it begins with one.
/// One that does not end takes all the rest.
fn after_comment_or_quote(text: &str) -> Option<&str> {
    let (inside, end) = if let Some(inside) = text.strip_prefix("--") {
        (inside, "\n")
    } else if let Some(inside) = text.strip_prefix("/*") {
        (inside, "*/")
    } else if let Some(tag) = dollar_quote(text) {
        (&text[tag.len()..], tag)
    } else {
        ["'", "\"", "`"]
            .into_iter()
            .find_map(|quote| text.strip_prefix(quote).map(|inside| (inside, quote)))?
    };
    Some(inside.split_once(end).map_or("", |(_, after)| after))
}

/// PostgreSQL's `$$` or `$tag$` with which `text` begins, if it begins with one.
fn dollar_quote(text: &str) -> Option<&str> {
    let tag = text.strip_prefix('$')?.split_once('$')?.0;
    let is_tag = tag.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !tag.starts_with(|c: char| c.is_ascii_digit());
    is_tag.then(|| &text[..tag.len() + 2])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(batch: &str, expected: bool) {
        assert_eq!(controls_transactions(batch), expected, "{batch}");
    }

    #[test]
    fn transactions_are_found_wherever_a_statement_begins() {
        for batch in [
            "BEGIN",
            "PREPARE TRANSACTION 'x'",
            "CREATE TABLE t (trigger TEXT); BEGIN",
            "SELECT $1; COMMIT",
            "  begin immediate;",
            "-- now\nBEGIN IMMEDIATE",
            "/* now */ COMMIT",
            "SELECT 1; ROLLBACK",
            "SELECT 'it''s; fine'; SAVEPOINT a",
            "START TRANSACTION",
            "release a",
            "END;",
        ] {
            check(batch, true);
        }
    }

    #[test]
    fn what_only_looks_like_one_passes() {
        for batch in [
            "",
            ";",
            "SELECT 'a; COMMIT'",
            "INSERT INTO beginners VALUES (1)",
            "CREATE TABLE commits (begin INTEGER)",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b; END;",
            "DO $$ BEGIN PERFORM 1; END $$",
            "CREATE FUNCTION f() RETURNS void AS $body$ BEGIN; COMMIT; $$ END $body$ LANGUAGE plpgsql",
            "-- BEGIN",
            "/* COMMIT",
            "PRAGMA foreign_keys = ON; UPDATE a SET b = \"; ROLLBACK\"",
        ] {
            check(batch, false);
        }
    }

    fn written(batch: &str) -> String {
        let writes = writes(batch);
        let lines: Vec<_> = writes.iter().map(|Write { verb, table }| format!("{verb:?} {table}")).collect();
        lines.join(", ")
    }

    #[test]
    fn tables_that_are_written_to_are_found() {
        for (batch, expected) in [
            (r#"INSERT INTO "users" ("id") VALUES ($1)"#, "Insert users"),
            (r#"INSERT INTO "app"."users" DEFAULT VALUES"#, "Insert users"),
            ("insert or ignore into users values (1)", "Insert users"),
            ("INSERT IGNORE INTO `users` VALUES (1)", "Insert users"),
            ("REPLACE INTO users VALUES (1)", "Insert users"),
            (r#"UPDATE "users" SET "name" = $1 WHERE "id" = $2"#, "Update users"),
            ("UPDATE ONLY app.users u SET name = 'x'", "Update users"),
            ("UPDATE OR REPLACE users SET name = 'x'", "Update users"),
            ("-- now\nDELETE /* all */ FROM users", "Delete users"),
            ("TRUNCATE TABLE users", "Delete users"),
            ("COPY users (id) FROM STDIN", "Insert users"),
            ("EXPLAIN ANALYZE DELETE FROM users", "Delete users"),
            ("EXPLAIN SELECT 1; DELETE FROM users", "Delete users"),
            ("SELECT 1; delete from a; UPDATE b SET c = 1", "Delete a, Update b"),
            (
                "WITH gone AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM gone",
                "Delete a, Insert b",
            ),
            ("INSERT INTO a VALUES (1) ON CONFLICT (id) DO UPDATE SET b = 1", "Insert a"),
            ("INSERT INTO a (b) SELECT \"update\" FROM c", "Insert a"),
        ] {
            assert_eq!(written(batch), expected, "{batch}");
        }
    }

    #[test]
    fn what_writes_nothing_is_no_write() {
        for batch in [
            "",
            "SELECT * FROM users FOR UPDATE",
            "SELECT * FROM users FOR NO KEY UPDATE",
            "SELECT 'DELETE FROM users'",
            "SELECT replace(name, 'a', 'b') FROM users",
            "CREATE TABLE a (b INTEGER REFERENCES c ON DELETE CASCADE ON UPDATE CASCADE)",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN DELETE FROM b; END;",
            "DO $$ BEGIN DELETE FROM b; END $$",
            "SELECT t.update FROM t",
            "-- UPDATE a SET b = 1",
            "COPY users TO STDOUT",
            "COPY (SELECT * FROM users) TO STDOUT",
            "EXPLAIN DELETE FROM users",
            "EXPLAIN QUERY PLAN UPDATE users SET name = 'x'",
        ] {
            assert_eq!(written(batch), "", "{batch}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(batch in ".*") {
            let _ = (controls_transactions(&batch), writes(&batch));
        }

        #[test]
        fn no_order_of_words_makes_it_panic(words in prop::collection::vec(
            prop::sample::select(vec!["insert", "into", "update", "delete", "from", "create", "trigger", ".", "(", ";", "\"", "`", "a", "$1", "'"]), 0..12)
        ) {
            let _ = writes(&words.join(" "));
        }
    }
}

//! Finds statements that begin or end transactions in raw SQL.
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

    proptest! {
        #[test]
        fn nothing_makes_it_panic(batch in ".*") {
            let _ = controls_transactions(&batch);
        }
    }
}

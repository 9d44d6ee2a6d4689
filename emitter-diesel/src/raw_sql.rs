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
        if first == "create" && words.any(|word| is_body(&word.to_ascii_lowercase())) {
            return false;
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

fn is_body(word: &str) -> bool {
    matches!(word, "trigger" | "function" | "procedure")
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
    } else {
        ["'", "\"", "`"]
            .into_iter()
            .find_map(|quote| text.strip_prefix(quote).map(|inside| (inside, quote)))?
    };
    Some(inside.split_once(end).map_or("", |(_, after)| after))
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

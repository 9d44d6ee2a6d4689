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
    let mut statements = vec![String::new()];
    let mut rest = batch;
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("--") {
            rest.find('\n')
        } else if rest.starts_with("/*") {
            rest[2..].find("*/").map(|end| end + 4)
        } else if matches!(c, '\'' | '"' | '`') {
            rest[1..].find(c).map(|end| end + 2)
        } else {
            None
        };
        let quoted = rest.starts_with("--") || rest.starts_with("/*") || matches!(c, '\'' | '"' | '`');
        match (quoted, skipped) {
            // A comment or a quote that does not end takes all the rest.
            (true, None) => break,
            (true, Some(length)) => {
                rest = &rest[length..];
                push(&mut statements, ' ');
            }
            (false, _) => {
                rest = &rest[c.len_utf8()..];
                if c == ';' {
                    statements.push(String::new());
                } else {
                    push(&mut statements, c);
                }
            }
        }
    }
    statements
}

fn push(statements: &mut [String], c: char) {
    if let Some(last) = statements.last_mut() {
        last.push(c);
    }
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

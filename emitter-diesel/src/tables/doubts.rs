//! What speaks against relying on a database: settings by which it may forget what it has committed, and a clock that is off.

use super::{Dialect, Names};

/// A setting or the clock, as the database tells it.
type Told<'t> = (&'t str, i64);

/// Asks for settings by which the database might forget what it has committed, each with 1 where it might; and for its clock.
pub(crate) fn settings(dialect: Dialect, names: &Names) -> String {
    let clock = format!("SELECT 'clock' AS text, {} AS number", dialect.now());
    match dialect {
        Dialect::Postgres => format!(
            "SELECT 'synchronous_commit' AS text, \
             CASE current_setting('synchronous_commit') WHEN 'off' THEN 1::bigint ELSE 0 END AS number \
             UNION ALL SELECT 'fsync', CASE current_setting('fsync') WHEN 'off' THEN 1 ELSE 0 END UNION ALL {clock}"
        ),
        // They are this connection's, and each file's.
        Dialect::Sqlite => {
            let file = names.schema().unwrap_or("main");
            let modes = format!(
                "pragma_synchronous('{file}') AS s, pragma_journal_mode('{file}') AS j, pragma_journal_mode('main') AS m"
            );
            format!(
                "SELECT 'synchronous = OFF' AS text, s.synchronous = 0 AS number FROM {modes} \
                 UNION ALL SELECT 'synchronous = NORMAL', s.synchronous = 1 AND j.journal_mode = 'wal' FROM {modes} \
                 UNION ALL SELECT 'ATTACH', '{file}' <> 'main' AND 'wal' IN (j.journal_mode, m.journal_mode) FROM {modes} \
                 UNION ALL {clock}"
            )
        }
        Dialect::MySql => format!(
            "SELECT 'innodb_flush_log_at_trx_commit' AS text, \
             CAST(@@innodb_flush_log_at_trx_commit <> 1 AS SIGNED) AS number UNION ALL {clock}"
        ),
    }
}

/// What is to be said of a database with such [settings], at this time by the program's clock, each with its cure.
pub(crate) fn doubts<'t>(told: impl IntoIterator<Item = Told<'t>>, now: i64) -> Vec<String> {
    told.into_iter().filter_map(|told| doubt(told, now)).collect()
}

fn doubt((setting, number): Told<'_>, now: i64) -> Option<String> {
    if setting == "clock" {
        let seconds = (number - now) / 1000;
        return (seconds.abs() > 60).then(|| {
            format!(
                "its clock is {} s {} this program's: leases go by the database's clock, the times of events by \
                 the program's; have both set by NTP",
                seconds.abs(),
                if seconds > 0 { "ahead of" } else { "behind" }
            )
        });
    }
    if setting == "ATTACH" {
        return (number != 0).then(|| {
            "its tables are in an attached database, and in WAL mode SQLite commits each file by itself: what is killed in \
             the middle may leave a row without its durable event, or a mark without its effect; keep the tables in the file \
             of the rows, or run `PRAGMA journal_mode = DELETE` on both"
                .to_owned()
        });
    }
    let cure = match setting {
        "synchronous_commit" => "set it to `on`, for the roles that write durable events at least",
        "fsync" => "set it to `on`",
        "innodb_flush_log_at_trx_commit" => "set it to 1",
        // Of another connection nobody here knows it.
        _ => "run `PRAGMA synchronous = FULL` on each connection, the framework's and yours",
    };
    (number != 0).then(|| {
        format!(
            "with its `{setting}`, a crash may take back what was committed: what was published already tells of rows that never \
             were, and what the broker was told is done comes no more: {cure}"
        )
    })
}

/// Asks for the mode of SQLite's journal, with 1 where readers and writers hold each other up.
pub(crate) fn journal(dialect: Dialect, names: &Names) -> Option<String> {
    // Of an attached database another mode is the better one: see above.
    (dialect == Dialect::Sqlite && names.schema().is_none_or(|schema| schema == "main")).then(|| {
        "SELECT journal_mode AS text, journal_mode NOT IN ('wal', 'memory') AS number FROM pragma_journal_mode".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_forgets_or_has_another_time_is_doubted() {
        let good = [("synchronous_commit", 0), ("fsync", 0), ("ATTACH", 0), ("clock", 1_000_000_000)];
        assert_eq!(doubts(good, 1_000_000_000 + 59_000), Vec::<String>::new());
        let bad = [
            ("synchronous_commit", 1),
            ("fsync", 1),
            ("innodb_flush_log_at_trx_commit", 1),
            ("synchronous = OFF", 1),
            ("synchronous = NORMAL", 1),
        ];
        let said = doubts(bad, 0);
        assert_eq!(said.len(), bad.len());
        for (doubt, (setting, _)) in said.iter().zip(bad) {
            let cure = if setting.contains('=') { ": run `PRAGMA" } else { ": set it to" };
            assert!(doubt.contains(setting) && doubt.contains(cure), "{doubt}");
        }
        assert!(doubts([("ATTACH", 1)], 0)[0].contains("attached database"));
        let hour = 3_600_000;
        assert!(doubts([("clock", 0)], hour)[0].contains("3600 s behind"));
        assert!(doubts([("clock", hour)], 0)[0].contains("3600 s ahead of"));
    }
}

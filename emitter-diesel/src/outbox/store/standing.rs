//! How an outbox stands, an operator's hand on it, and whether its database can be relied on.

use super::{PENDING, Store, WAITING};
use crate::tables::Dialect;

impl Store {
    /// Has all lanes rest, or go on.
    pub(crate) fn pause(&self, pause: bool) -> String {
        format!("UPDATE {} SET paused = {}", self.names.table("lanes"), u8::from(pause))
    }

    /// How many rows there are of each status; lanes, owned ones, and paused ones.
    pub(crate) fn statuses(&self) -> String {
        let (outbox, lanes) = (self.names.table("outbox"), self.names.table("lanes"));
        let now = self.dialect.now();
        format!(
            "SELECT status AS text, COUNT(*) AS number FROM {outbox} GROUP BY status \
             UNION ALL SELECT 'lanes', COUNT(*) FROM {lanes} \
             UNION ALL SELECT 'owned', COUNT(*) FROM {lanes} WHERE owner IS NOT NULL AND until > {now} \
             UNION ALL SELECT 'paused', COUNT(*) FROM {lanes} WHERE paused <> 0"
        )
    }

    /// How many milliseconds ago the first row was written of those that are to be published.
    pub(crate) fn oldest_pending(&self) -> String {
        let (outbox, now) = (self.names.table("outbox"), self.dialect.now());
        let written = match self.dialect {
            Dialect::Postgres => "(extract(epoch FROM created_at) * 1000)::bigint",
            Dialect::Sqlite => "CAST((julianday(created_at) - 2440587.5) * 86400000 AS INTEGER)",
            Dialect::MySql => "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', created_at) DIV 1000",
        };
        let parts = [PENDING, WAITING].map(|status| {
            format!(
                "SELECT '{status}' AS text, number FROM (SELECT {now} - {written} AS number FROM {outbox} \
                 WHERE status = '{status}' ORDER BY created_at LIMIT 1) AS o_{status}"
            )
        });
        parts.join(" UNION ALL ")
    }

    /// Settings by which the database might forget what it has committed, each with 1 where it might; and its
    /// clock.
    pub(crate) fn settings(&self) -> String {
        let settings = match self.dialect {
            Dialect::Postgres => {
                "SELECT 'synchronous_commit' AS text, \
                 CASE current_setting('synchronous_commit') WHEN 'off' THEN 1::bigint ELSE 0 END AS number \
                 UNION ALL SELECT 'fsync', CASE current_setting('fsync') WHEN 'off' THEN 1 ELSE 0 END UNION ALL "
            }
            Dialect::Sqlite => "",
            Dialect::MySql => {
                "SELECT 'innodb_flush_log_at_trx_commit' AS text, \
                 CAST(@@innodb_flush_log_at_trx_commit <> 1 AS SIGNED) AS number UNION ALL "
            }
        };
        settings.to_owned() + &self.clock()
    }
}

/// What is to be said of a database with such [settings](Store::settings), at this time by the program's clock.
pub(crate) fn doubts<'p>(settings: impl IntoIterator<Item = (&'p str, i64)>, now: i64) -> Vec<String> {
    let doubt = |(setting, number): (&str, i64)| {
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
        let cure = match setting {
            "synchronous_commit" => "set it to `on`, for the roles that write durable events at least",
            "fsync" => "set it to `on`",
            _ => "set it to 1",
        };
        (number != 0).then(|| {
            format!(
                "with its `{setting}`, a crash may take back what was committed, and what was published already tells \
                 of rows that never were: {cure}"
            )
        })
    };
    settings.into_iter().filter_map(doubt).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_forgets_or_has_another_time_is_doubted() {
        let good = [("synchronous_commit", 0), ("fsync", 0), ("clock", 1_000_000_000)];
        assert_eq!(doubts(good, 1_000_000_000 + 59_000), Vec::<String>::new());
        let bad = [("synchronous_commit", 1), ("fsync", 1), ("innodb_flush_log_at_trx_commit", 1)];
        let said = doubts(bad, 0);
        assert_eq!(said.len(), 3);
        for (doubt, (setting, _)) in said.iter().zip(bad) {
            assert!(doubt.contains(setting) && doubt.contains(": set it to"), "{doubt}");
        }
        let hour = 3_600_000;
        assert!(doubts([("clock", 0)], hour)[0].contains("3600 s behind"));
        assert!(doubts([("clock", hour)], 0)[0].contains("3600 s ahead of"));
    }
}

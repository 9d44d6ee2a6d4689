//! The alerts of `ops/alerts.yml`, by Prometheus itself: when each fires, and what it says then.

use std::collections::BTreeSet;
use std::path::Path;

use emitter_core::metrics::table;
use emitter_tests::alerts::alerts;
use emitter_tests::servers::promtool;
use serde_json::{Value, json};

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/alerts.yml");

/// An alert, and what it is tried on.
struct Case {
    alert: &'static str,
    /// What is scraped every 15 s, in promtool's words: most faults begin after a minute of peace.
    series: &'static [(&'static str, &'static str)],
    /// The last moment at which it is quiet, and the first at which it fires.
    between: [&'static str; 2],
    labels: &'static [(&'static str, &'static str)],
    summary: &'static str,
}

const SHOP: (&str, &str) = ("job", "shop");
const A: (&str, &str) = ("instance", "a");

const CASES: [Case; 9] = [
    Case {
        alert: "EmitterOutboxBehind",
        series: &[
            ("emitter_outbox_oldest_seconds{job='shop',instance='a'}", "60x4 90x40"),
            ("emitter_outbox_oldest_seconds{job='shop',instance='b'}", "0x44"),
        ],
        between: ["2m", "2m15s"],
        labels: &[SHOP],
        summary: "shop: an event has waited for 1m 30s in the outbox, or to be written into it",
    },
    Case {
        alert: "EmitterOutboxBehind",
        series: &[("emitter_queued_oldest_seconds{job='shop',instance='a'}", "60x4 61x40")],
        between: ["2m", "2m15s"],
        labels: &[SHOP],
        summary: "shop: an event has waited for 1m 1s in the outbox, or to be written into it",
    },
    Case {
        alert: "EmitterOutboxGivenUp",
        series: &[
            ("emitter_outbox_rows{job='shop',instance='a',status='pending'}", "7x44"),
            ("emitter_outbox_rows{job='shop',instance='a',status='failed'}", "0x4 3x40"),
        ],
        between: ["1m", "1m15s"],
        labels: &[SHOP, ("status", "failed")],
        summary: "shop: 3 events lie in the outbox, and nobody tries them any more (failed)",
    },
    Case {
        alert: "EmitterDisconnected",
        series: &[
            ("emitter_connections{job='shop',instance='a',link='publisher',state='lost'}", "0x4 1x40"),
            ("emitter_connections{job='shop',instance='a',link='publisher',state='standing'}", "1x4 0x40"),
        ],
        between: ["2m", "2m15s"],
        labels: &[SHOP, A, ("link", "publisher")],
        summary: "a has lacked a connection (publisher) for a minute",
    },
    Case {
        alert: "EmitterDegraded",
        series: &[("emitter_degraded_reasons{job='shop',instance='a'}", "0x4 2x60")],
        between: ["11m", "11m15s"],
        labels: &[SHOP, A],
        summary: "a has not been healthy for ten minutes (2 reasons)",
    },
    Case {
        alert: "EmitterCanaryMissing",
        series: &[("emitter_canary_missed{job='shop',instance='a'}", "1x4 2x40")],
        between: ["1m", "1m15s"],
        labels: &[SHOP, A],
        summary: "a publishes, and 2 messages to itself did not come back",
    },
    Case {
        // A tenth of its calls, from the beginning.
        alert: "EmitterListenerFailing",
        series: &[
            ("emitter_handled_total{job='shop',model='order',listener='bill',outcome='ok'}", "0+90x80"),
            ("emitter_handled_total{job='shop',model='order',listener='bill',outcome='failed'}", "0+6x80"),
            ("emitter_handled_total{job='shop',model='order',listener='bill',outcome='timed_out'}", "0+4x80"),
            ("emitter_handled_total{job='shop',model='order',listener='mail',outcome='ok'}", "0+96x80"),
            ("emitter_handled_total{job='shop',model='order',listener='mail',outcome='failed'}", "0+4x80"),
        ],
        between: ["5m", "5m15s"],
        labels: &[SHOP, ("model", "order"), ("listener", "bill")],
        summary: "bill fails in 10% of its calls for order",
    },
    Case {
        alert: "EmitterDeadLetters",
        series: &[("emitter_dead_letters_total{job='shop',model='order',reason='unhandled'}", "0x4 1x40")],
        between: ["1m", "1m15s"],
        labels: &[SHOP, ("model", "order"), ("reason", "unhandled")],
        summary: "shop: events of order became dead letters (unhandled)",
    },
    Case {
        alert: "EmitterEventsLost",
        series: &[
            ("emitter_published_total{job='shop',outcome='confirmed'}", "0+9x44"),
            ("emitter_published_total{job='shop',outcome='refused'}", "0x44"),
            ("emitter_missed_total{job='shop',outcome='recovered'}", "0+1x44"),
            ("emitter_overflowed_total{job='shop'}", "0x4 40x40"),
        ],
        between: ["1m", "1m15s"],
        labels: &[SHOP],
        summary: "shop: 40 events did not get where they go",
    },
];

impl Case {
    /// Its series are of metrics that are for this alert, by labels that these have, or Prometheus adds.
    fn is_of_what_nodes_tell(&self) {
        for (series, _) in self.series {
            let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap();
            let metric = table::ALL.iter().find(|metric| metric.name == name).unwrap();
            assert_eq!(metric.alert, Some(self.alert), "{series}");
            let known = |label: &str| ["job", "instance"].contains(&label) || metric.labels.contains(&label);
            assert!(labels.split(',').all(|label| known(label.split('=').next().unwrap())), "{series}");
        }
    }

    /// One unit test of promtool: quiet, then firing, and nothing else at all.
    fn unit(&self) -> Value {
        let alerts = alerts();
        let alert = alerts.iter().find(|alert| alert.alert == self.alert).unwrap();
        let mut labels: serde_json::Map<String, Value> =
            self.labels.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        labels.insert("severity".to_owned(), json!(alert.labels["severity"]));
        let fires = json!({
            "exp_labels": labels,
            "exp_annotations": { "summary": self.summary, "description": alert.annotations["description"] },
        });
        let [quiet, firing] = self.between;
        let series = self.series.iter();
        let mut at: Vec<Value> = vec![
            json!({ "eval_time": quiet, "alertname": self.alert, "exp_alerts": [] }),
            json!({ "eval_time": firing, "alertname": self.alert, "exp_alerts": [fires] }),
        ];
        at.extend(
            alerts
                .iter()
                .filter(|other| other.alert != self.alert)
                .map(|other| json!({ "eval_time": firing, "alertname": other.alert, "exp_alerts": [] })),
        );
        json!({
            "name": self.alert,
            "interval": "15s",
            "input_series": series.map(|(series, values)| json!({ "series": series, "values": values })).collect::<Vec<_>>(),
            "alert_rule_test": at,
        })
    }
}

#[test]
fn prometheus_takes_them() {
    promtool::check(Path::new(RULES));
}

#[test]
fn each_fires_when_its_fault_has_lasted_and_says_what_it_is() {
    let tried: BTreeSet<&str> = CASES.iter().map(|case| case.alert).collect();
    let all = alerts();
    assert_eq!(tried, all.iter().map(|alert| &*alert.alert).collect());
    CASES.iter().for_each(Case::is_of_what_nodes_tell);
    let folder = tempfile::tempdir().unwrap();
    // JSON is YAML.
    let tests = json!({
        "rule_files": [RULES],
        "evaluation_interval": "15s",
        "tests": CASES.iter().map(Case::unit).collect::<Vec<_>>(),
    });
    let file = folder.path().join("alerts.test.yml");
    std::fs::write(&file, tests.to_string()).unwrap();
    promtool::test(&file);
}

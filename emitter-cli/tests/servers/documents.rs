//! The commands that the documents tell somebody to run, at three in the morning, are commands.

use super::command::{Address, Cli};
use super::databases::{Database, Sqlite};

/// Each as it stands there, with something in place of what a reader is to put in.
fn commands(document: &str) -> Vec<Vec<String>> {
    let code = document.split('`').skip(1).step_by(2);
    let lines = document.lines().filter_map(|line| line.strip_prefix("$ "));
    let parts = code.chain(lines).flat_map(|text| text.split("  #").next().unwrap_or_default().split(';'));
    let parts = parts.filter_map(|part| part.split(" >").next()?.trim().strip_prefix("emitter "));
    let word = |word: &str| match word {
        "SERVICE" => "shop".to_owned(),
        "LISTENER" => "courier".to_owned(),
        "ID" | "ID…" => "1".to_owned(),
        "EVENT_ID" | "01932f4e-…" => "01932f4e-0000-7000-8000-000000000000".to_owned(),
        word => word.to_owned(),
    };
    parts.map(|part| part.split_whitespace().map(word).collect()).collect()
}

#[test]
fn what_the_documents_say_can_be_run() {
    let server = Sqlite::with_tables();
    let broker = ("EMITTER_MQTT_URL", "mqtt://127.0.0.1:1".to_owned());
    let cli = Cli::new([("EMITTER_DATABASE", server.address()), broker]);
    let readme = include_str!("../../../README.md");
    let console = readme.split("```console").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let runbook = include_str!("../../../docs/RUNBOOK.md");
    let alerts = include_str!("../../../ops/alerts.yml");
    for (document, fewest) in [(console, 10), (runbook, 15), (alerts, 3)] {
        let commands = commands(document);
        assert!(commands.len() >= fewest, "{commands:?}");
        for command in commands {
            // Nobody attends here: who asks waits for that.
            let asks = ["redrive", "replay"].iter().any(|word| command.iter().any(|part| part == word));
            let also = if asks && !command.iter().any(|part| part == "--dry-run") {
                &["--no-wait"][..]
            } else {
                &[]
            };
            let arguments: Vec<&str> =
                command.iter().map(String::as_str).chain(also.iter().copied()).collect();
            let ran = cli.run(&arguments);
            let refused = ["Usage:", "which? ", "whose? "].iter().any(|word| ran.err.contains(word));
            assert!(!refused, "{arguments:?}: {ran:?}");
        }
    }
}

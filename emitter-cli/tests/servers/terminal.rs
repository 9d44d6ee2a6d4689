//! What others wrote, on a terminal: as text, as JSON, and byte for byte.

use std::process::{Command, Output};

use diesel::connection::SimpleConnection;
use emitter_diesel::dead_letters::DeadLetterBook;
use emitter_diesel::tables::Tables;

use super::command::{Cli, letter};
use super::databases::{Database, Sqlite};

/// The command on a terminal of its own.
fn on_a_terminal(cli: &Cli, arguments: &[&str]) -> Output {
    let ours = cli.command(arguments);
    let line = [&[ours.get_program().to_str().unwrap()], arguments].concat().join(" ");
    let mut command = Command::new("script");
    let environment = ours.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command.envs(environment).args(["-qec", &line, "/dev/null"]).stdin(std::process::Stdio::null());
    command.output().unwrap()
}

#[test]
fn no_letter_orders_a_terminal() {
    let server = Sqlite::start();
    let tables: Tables = server.tables();
    DeadLetterBook::open(&tables).unwrap();
    let cli = Cli::at(&server);
    for (payload, is_harmless) in [
        ("{\n\t\"name\": \"größer\"}", true),
        ("a\u{1b}[2Jb", false),
        ("a\u{9b}2J", false),
        ("a\u{202e}b", false),
    ] {
        server.connect().batch_execute("DELETE FROM emitter_dlq_events").unwrap();
        server.connect().batch_execute(&letter(payload, payload)).unwrap();
        let id = cli.report("dlq_list", &["dlq", "list"]).0["letters"][0]["id"].to_string();
        let show = ["dlq", "show", &id, "--payload"];
        // Whoever writes it into a file has it as it is.
        assert_eq!(cli.run(&show).out, payload);
        let output = on_a_terminal(&cli, &show);
        let shown = String::from_utf8(output.stdout).unwrap();
        if is_harmless {
            assert_eq!((output.status.code(), shown.replace("\r\n", "\n")), (Some(0), payload.to_owned()));
        } else {
            assert!(output.status.code() == Some(2) && shown.contains("> FILE"), "{shown:?}");
        }
        for arguments in
            [&["dlq", "show", &*id][..], &["dlq", "show", &id, "--json"], &["dlq", "list", "--json"]]
        {
            let output = on_a_terminal(&cli, arguments);
            let shown = String::from_utf8(output.stdout).unwrap();
            let orders = |c: char| (c.is_control() && !matches!(c, '\r' | '\n')) || c == '\u{202e}';
            assert!(output.status.code() == Some(0) && !shown.contains(orders), "{shown:?}");
        }
        assert_eq!(cli.report("dlq_show", &["dlq", "show", &id]).0["payload"], payload);
    }
}

#[test]
fn no_row_that_was_given_up_does() {
    let server = Sqlite::start();
    emitter_diesel::outbox::GivenUp::open(&server.tables(), "shop").unwrap();
    let cli = Cli::at(&server);
    for (id, payload, is_harmless) in [("1", "{\"name\": \"größer\"}", true), ("2", "a\u{1b}[2Jb", false)] {
        let row = format!(
            "INSERT INTO emitter_outbox (id, event_id, action, model, payload, status, last_error, created_at, operation, topic, \
             qos, lane, by_model, park, trace_id) VALUES ({id}, '{id}', 'CREATE', 'order', '{payload}', 'FAILED', '{payload}', '', \
             'create', 'a/b', 1, 0, 0, 0, '')"
        );
        server.connect().batch_execute(&row).unwrap();
        let show = ["outbox", "given-up", "show", id];
        assert_eq!(cli.report("given_up_show", &show).0["payload"], payload);
        let shown = String::from_utf8(on_a_terminal(&cli, &show).stdout).unwrap();
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
        let bytes = [&show[..], &["--payload"]].concat();
        assert_eq!(cli.run(&bytes).out, payload);
        let output = on_a_terminal(&cli, &bytes);
        let (code, shown) = (output.status.code(), String::from_utf8(output.stdout).unwrap());
        match is_harmless {
            true => assert_eq!((code, &*shown), (Some(0), payload)),
            false => assert!(code == Some(2) && shown.contains("> FILE"), "{shown:?}"),
        }
    }
}

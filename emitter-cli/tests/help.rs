//! What `--help` says, and what is said without any server.

use std::process::{Command, Output, Stdio};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emitter"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EMITTER_") {
            command.env_remove(name);
        }
    }
    for name in ["XDG_CONFIG_HOME", "HOME", "COLUMNS"] {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

fn emitter(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn out(arguments: &[&str]) -> String {
    let output = emitter(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Every command, with the help of each.
#[test]
fn help_is_read_before_it_changes() {
    let commands: &[&[&str]] = &[
        &[],
        &["migrate"],
        &["outbox"],
        &["outbox", "status"],
        &["outbox", "drain"],
        &["outbox", "given-up"],
        &["outbox", "given-up", "list"],
        &["outbox", "given-up", "show"],
        &["outbox", "given-up", "retry"],
        &["outbox", "given-up", "discard"],
        &["dlq"],
        &["dlq", "list"],
        &["dlq", "count"],
        &["dlq", "show"],
        &["dlq", "edit"],
        &["dlq", "redrive"],
        &["dlq", "discard"],
        &["replay"],
        &["requests"],
        &["requests", "list"],
        &["requests", "show"],
        &["requests", "wait"],
        &["requests", "cancel"],
        &["lag"],
        &["why"],
        &["tail"],
        &["doctor"],
        &["listeners"],
        &["bench"],
        &["schema"],
        &["generate"],
    ];
    let mut all = String::new();
    for command in commands {
        let help = out(&[*command, &["--help"]].concat());
        // What all have is said once.
        let own = if command.is_empty() { &*help } else { help.split("\nWhere:").next().unwrap_or(&help) };
        all += &format!("$ emitter {} --help\n{}\n\n", command.join(" "), own.trim_end());
    }
    insta::assert_snapshot!(all);
}

/// What is in the documents is held by the framework's own tests.
#[test]
fn documents_are_made_of_a_manifest() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/order-desk/emitter.json");
    let document = |arguments: &[&str]| out(&[&["schema", "--from", manifest][..], arguments].concat());
    let typescript = document(&["typescript", "--prefix", "shop/events"]);
    assert!(typescript.contains("export interface OrderRow {"), "{typescript}");
    assert!(typescript.contains("OrderCreated: \"shop/events/order/create\""), "{typescript}");
    let wrapped: serde_json::Value =
        serde_json::from_str(&document(&["typescript", "--prefix", "shop/events", "--json"])).unwrap();
    assert_eq!(wrapped, serde_json::json!({ "typescript": typescript }));
    for (form, member) in [("asyncapi", "channels"), ("jsonschema", "$defs")] {
        let plain = document(&[form, "--title", "Shop", "--of-version", "3.0.0"]);
        let json = document(&[form, "--title", "Shop", "--of-version", "3.0.0", "--json"]);
        assert!(plain.lines().count() > 10 && json.lines().count() == 1);
        let [plain, json] =
            [plain, json].map(|text| serde_json::from_str::<serde_json::Value>(&text).unwrap());
        assert!(plain == json && plain[member].is_object(), "{plain}");
        assert!(plain.to_string().contains("Shop"), "{plain}");
    }
    let layout = document(&["asyncapi", "--layout", "tracker/{model}/{past_tense}"]);
    assert!(layout.contains("\"tracker/order/created\""), "{layout}");
    let refused = |arguments: &[&str], word: &str| {
        let output = emitter(&[&["schema"][..], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(word), "{output:?}");
    };
    refused(&["typescript", "--from", "/nowhere/emitter.json"], "EMITTER_MANIFEST=write");
    refused(
        &["typescript", "--from", concat!(env!("CARGO_MANIFEST_DIR"), "/reports.schema.json")],
        "is no manifest",
    );
    refused(&["asyncapi", "--from", manifest, "--prefix", "a/#"], "#");
}

#[test]
fn completions_are_there_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = out(&["completions", shell]);
        assert!(script.contains("given-up") && script.contains("table-prefix"), "{shell}");
    }
}

/// As in `emitter doctor --json | head -c1`.
#[test]
fn who_reads_no_more_changes_no_verdict() {
    let nowhere = ["--database", "postgres://127.0.0.1:1/shop", "--json"];
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/generated/schema.rs");
    for (arguments, code) in [(&["doctor"][..], 2), (&["generate", schema], 1), (&["completions", "bash"], 0)]
    {
        let mut child = command(&[arguments, &nowhere].concat());
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{arguments:?}");
    }
}

/// Of an address that cannot be used, or that leads nowhere, nothing secret is told.
#[test]
fn no_secret_is_told() {
    for address in [
        "postgres://shop:sesame@127.0.0.1:1/shop",
        "postgres://shop:ses%61me@127.0.0.1:1/shop",
        // These its library repeats.
        "postgres://shop:sesame%zz@127.0.0.1:1/shop",
        "postgres:///shop?host=127.0.0.1&password=sesame%zz",
        "postgres:///shop?host=127.0.0.1&port=1&password=sesame",
        "postgres://shop:open@sesame@127.0.0.1:1/shop",
        "postgres://shop:sesame/shop",
        "postgres://shop:open/sesame@127.0.0.1:1/shop",
        "mysql://shop:sesame@127.0.0.1:1/shop",
        "mysql://shop:open#sesame@127.0.0.1:1/shop",
        "oracle://shop:sesame@127.0.0.1/shop",
    ] {
        for arguments in [
            &["outbox", "status"][..],
            &["doctor"],
            &["dlq", "count", "--json"],
            &["migrate", "--help"],
            &["nothing"],
        ] {
            let output = emitter(&[&["--database", address][..], arguments].concat());
            let said = format!("{output:?}");
            assert!(!said.contains("sesame") && !said.contains("ses%61me"), "{arguments:?}: {said}");
            let is_help = arguments.contains(&"--help");
            assert_eq!(output.status.code(), Some(if is_help { 0 } else { 2 }), "{said}");
        }
    }
}

#[test]
fn a_profile_says_what_is_not_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("profiles.toml");
    let with = |text: &str, arguments: &[&str]| {
        std::fs::write(&file, text).unwrap();
        let output = emitter(&[arguments, &["--profiles", file.to_str().unwrap()]].concat());
        (output.status.code(), format!("{output:?}"))
    };
    let profiles = "[default]\ndatabase = \"postgres://shop@db/shop\"\n[small]\ndatabase = \"shop.db\"\ntable-prefix = \"shop_\"";
    let print = ["migrate", "--print"];
    assert!(with(profiles, &print).1.contains("CREATE TABLE emitter_outbox (id BIGINT GENERATED"));
    let small = [&print[..], &["--profile", "small"]].concat();
    assert!(with(profiles, &small).1.contains("CREATE TABLE shop_outbox (id INTEGER PRIMARY KEY"));
    // What is said counts.
    let said = [&small[..], &["--table-prefix", "other_", "--database", "mysql://shop@db/shop"]].concat();
    assert!(with(profiles, &said).1.contains("CREATE TABLE IF NOT EXISTS other_outbox"));
    let (code, said) = with("[small]\ndatabase = \"postgres://shop:sesame@db/shop\"", &print);
    assert!(code == Some(2) && said.contains(".pgpass") && !said.contains("sesame"), "{said}");
    assert_eq!(with(profiles, &[&print[..], &["--profile", "none"]].concat()).0, Some(2));
}

//! A program's events as a file, and what a change of them is told.

use emitter_core::manifest::{Accept, Difference, Manifest};
use emitter_core::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update, key(order_id, place), model = "orderItem")]
#[serde(rename_all = "camelCase")]
struct Item {
    order_id: i64,
    place: u32,
    note: Option<String>,
    tags: std::collections::BTreeMap<String, Vec<u8>>,
    #[emits(skip)]
    internal: String,
    #[serde(default)]
    #[emits(redact)]
    iban: String,
}

/// It is no row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(event, kind = "auth.login_failed")]
struct LoginFailed {
    username: String,
}

#[listener(model = "orderItem", remote_only)]
async fn hear(_: Event<ItemUpdated>) {}

#[listener(model = Item)]
async fn note(_: Event<ItemEvent>) {}

/// The manifest as it is, with one text replaced by another.
fn with(from: &str, to: &str) -> Manifest {
    let text = Manifest::linked().to_string();
    assert!(text.contains(from), "{from} is not in {text}");
    serde_json::from_str(&text.replacen(from, to, 1)).unwrap()
}

#[test]
fn it_is_text() {
    let expected = r#"{
  "models": {
    "login_failed": {
      "event": "auth.login_failed",
      "version": 1,
      "reads_from": 1,
      "key": [],
      "columns": {
        "username": {
          "type": "String"
        }
      }
    },
    "orderItem": {
      "version": 1,
      "reads_from": 1,
      "key": [
        "orderId",
        "place"
      ],
      "emits": [
        "create",
        "update"
      ],
      "columns": {
        "iban": {
          "type": "redacted",
          "may_be_absent": true
        },
        "note": {
          "type": "Option<String>",
          "may_be_absent": true
        },
        "orderId": {
          "type": "i64"
        },
        "place": {
          "type": "u32"
        },
        "tags": {
          "type": "std::collections::BTreeMap<String, Vec<u8>>"
        }
      }
    }
  },
  "listeners": [
    {
      "name": "hear",
      "model": "orderItem",
      "operation": "update",
      "hears": "remote"
    },
    {
      "name": "note",
      "model": "orderItem",
      "hears": "local"
    }
  ]
}
"#;
    assert_eq!(Manifest::of_crates(&["manifest"]).to_string(), expected);
    assert_eq!(Manifest::of_crates(&["elsewhere"]), Manifest::default());
}

#[test]
fn a_change_is_told_by_what_it_does() {
    let now = Manifest::linked();
    let check = |recorded: &Manifest, breaking: &[&str], harmless: &[&str]| {
        let (mut found_breaking, mut found_harmless) = (Vec::new(), Vec::new());
        for difference in now.differences(recorded) {
            match difference {
                Difference::Breaking(text) => found_breaking.push(text),
                Difference::Harmless(text) => found_harmless.push(text),
            }
        }
        let fits = |found: &[String], expected: &[&str]| {
            found.len() == expected.len()
                && found.iter().zip(expected).all(|(found, text)| found.contains(text))
        };
        assert!(fits(&found_breaking, breaking), "{found_breaking:#?}");
        assert!(fits(&found_harmless, harmless), "{found_harmless:#?}");
    };
    check(&now, &[], &[]);
    check(&with(r#""type": "u32""#, r#""type": "u8""#), &["column `place` was `u8` and is `u32`"], &[]);
    check(
        &with(r#""place": {"#, r#""position": {"#),
        &["column `place` is new, and events without it cannot be read;\n    column `position` is gone"],
        &[],
    );
    check(&with(r#""note": {"#, r#""remark": {"#), &[], &["a column that may be absent"]);
    check(&with("        \"place\"\n", "        \"note\"\n"), &["the key was"], &[]);
    check(&with("        \"create\",\n", ""), &[], &["what it emits"]);
    check(&with(r#""version": 1"#, r#""version": 2"#), &["went back from 2 to 1"], &[]);
    check(&with(r#""version": 1"#, r#""version": 0"#), &["events of version 0, which are stored"], &[]);
    check(&with("orderItem", "orderLine"), &[], &["`orderItem` is new", "`orderLine` is gone"]);
    check(
        &with(r#""auth.login_failed""#, r#""login_failed""#),
        &[],
        &["event `login_failed`: what it emits, its kind"],
    );
    check(
        &with("      \"event\": \"auth.login_failed\",\n", ""),
        &["it was recorded as model"],
        &["its kind"],
    );
    check(&with(r#""username": {"#, r#""user": {"#), &["`impl From<LoginFailedV1> for LoginFailed`"], &[]);
    check(
        &with("login_failed", "signin_failed"),
        &[],
        &["event `login_failed` is new", "event `signin_failed` is gone"],
    );
    check(&with(r#""name": "hear""#, r#""name": "listen""#), &[], &["now [`hear`], before [`listen`]"]);
}

#[test]
fn the_file_is_written_when_that_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("emitter.json");
    let check = |accept| Manifest::linked().check(&file, accept).map_err(|error| error.to_string());
    let told = |accept| check(accept).unwrap_err();
    assert!(told(Accept::Nothing).contains("run this test once with `EMITTER_MANIFEST=write`"));
    check(Accept::Harmless).unwrap();
    check(Accept::Nothing).unwrap();

    std::fs::write(&file, with("orderItem", "orderLine").to_string()).unwrap();
    assert!(told(Accept::Nothing).contains("If this is meant, run this test with `EMITTER_MANIFEST=write`"));
    check(Accept::Harmless).unwrap();
    check(Accept::Nothing).unwrap();

    let recorded = with(r#""type": "u32""#, r#""type": "u8""#).to_string();
    std::fs::write(&file, &recorded).unwrap();
    for accept in [Accept::Nothing, Accept::Harmless] {
        let text = told(accept);
        assert!(text.contains("breaking: model `orderItem`: column `place` was `u8` and is `u32`"), "{text}");
        assert!(text.contains("`#[emits(version = 2, earlier(OrderItemV1))]`"), "{text}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), recorded, "it was not written");
    }
    check(Accept::Everything).unwrap();
    check(Accept::Nothing).unwrap();

    std::fs::write(&file, "{").unwrap();
    assert!(told(Accept::Nothing).contains("is no manifest"));
}

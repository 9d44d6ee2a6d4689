//! Columns that are there without their value, and columns that are hashed.

use emitter_core::{Emits, Event, HashKey, Hashed, Model, Redacted, listener};
use serde::{Deserialize, Serialize};

struct NotJson;

#[derive(Emits)]
#[emits(crate = emitter_core, create, update)]
struct Account {
    id: i64,
    #[emits(hash)]
    email: String,
    #[emits(redact)]
    password: NotJson,
    #[emits(redact)]
    pin: Option<u32>,
}

#[listener(crate = emitter_core, model = "account", data(email, password))]
async fn changed(event: Event<AccountUpdated>) {
    let _: Redacted = event.after.password;
    let _: Hashed = event.after.email;
    if let Some(change) = event.changed().email() {
        let _: (Option<&Hashed>, &Hashed) = (change.old, change.new);
    }
}

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone, Emits)]
#[emits(crate = emitter_core, create)]
#[serde(rename_all = "camelCase")]
struct Card {
    id: i64,
    #[emits(hash)]
    card_number: String,
}

fn main() {
    let key = HashKey::new(&[1; 32]).unwrap();
    let account = Account { id: 1, email: "a@b".to_owned(), password: NotJson, pin: Some(1234) };
    let row = account.to_row(Some(&key));
    assert_eq!(row.email, key.hash("a@b"));
    let json = serde_json::to_string(&row).unwrap();
    assert!(json.contains(r#""password":"[redacted]","pin":"[redacted]""#), "{json}");
    assert!(!json.contains("1234") && !json.contains("a@b"), "{json}");
    assert!(account.to_row(None).email.is_absent());
    let sent_by_others = r#"{"id":1,"email":"a@b","password":"plain"}"#;
    let row: AccountRow = serde_json::from_str(sent_by_others).unwrap();
    assert!(row.email.is_absent());
    assert!(Account::HASHES && Card::HASHES);
    let card = Card { id: 1, card_number: "4111".to_owned() }.to_row(Some(&key));
    assert!(serde_json::to_string(&card).unwrap().contains("\"cardNumber\""));
}

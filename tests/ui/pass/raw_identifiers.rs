//! Keywords as names.

use emitter_diesel::registry::Registration;
use emitter_diesel::{Emits, Event, Key, Model, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(key(type, r#struct), create, update_many)]
struct Match {
    r#type: i32,
    r#struct: String,
    r#fn: bool,
    #[emits(skip)]
    r#impl: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(key(r#type), create)]
struct r#Loop {
    r#type: i32,
}

#[listener(model = "match")]
fn r#match(r#event: Event<MatchEvent>) {
    drop(event);
}

#[listener(model = "loop")]
async fn r#loop(r#type: Event<r#LoopEvent>) {
    drop(r#type);
}

fn main() {
    let row = Match { r#type: 1, r#struct: "a".into(), r#fn: true, r#impl: true }.to_row(None);
    assert_eq!(row, MatchRow { r#type: 1, r#struct: "a".into(), r#fn: true });
    assert_eq!(Match::key(&row), Key::composite([Key::Int(1), Key::Text("a".into())]));
    assert_eq!(Match::KEY_COLUMNS, ["type", "struct"]);
    assert_eq!((Match::NAME, r#Loop::NAME), ("match", "loop"));
    let mut names: Vec<_> = Registration::all().map(|registration| registration.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["loop", "match"]);
}

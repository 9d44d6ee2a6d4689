use emitter_diesel::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event)]
struct LoginFailed {
    username: String,
}

#[listener(model = "login_failed", changed(username))]
async fn alarm(_: Event<LoginFailed>) {}

fn main() {}

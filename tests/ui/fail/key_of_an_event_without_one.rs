use emitter_diesel::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize, Emits)]
#[emits(event)]
struct LoginFailed {
    username: String,
}

#[listener(model = "login_failed")]
async fn alarm(event: Event<LoginFailed>) {
    println!("{}", event.key());
}

fn main() {}

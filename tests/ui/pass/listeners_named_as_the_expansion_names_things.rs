//! Names of the expansion and of the user do not meet.

use emitter_diesel::registry::Registration;
use emitter_diesel::{Context, Emits, Event, State, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct User {
    id: i32,
}

macro_rules! listeners {
    ($($name:ident)*) => {
        $(
            #[listener(model = "user")]
            async fn $name(state_0: State<i32>, event: Event<UserEvent>, context: Context, states: State<String>) {
                let _ = (state_0, event, context, states);
            }
        )*

        const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

listeners! {
    call prepare event states state state_0 state_1 state_2 handler registration name model operation hears
    defined_at function output body row core std emitter_diesel inventory context home attempt change filtered with
}

fn main() {
    let mut found: Vec<_> = Registration::all().map(|registration| registration.name).collect();
    let mut expected = NAMES.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

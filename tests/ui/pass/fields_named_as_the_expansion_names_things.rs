//! Names of fields and those of the expansion, of bodies and of diffs do not meet.

use emitter_diesel::{Emits, Event, Model, listener};
use serde::{Deserialize, Serialize};

macro_rules! model {
    ($($field:ident)*) => {
        #[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize, Emits)]
        #[emits(all)]
        struct Thing {
            id: i32,
            $($field: i32,)*
            #[emits(skip)]
            krate: String,
        }

        #[listener(model = "thing", where($($field = 0),*), changed($($field),*))]
        async fn by_column(event: Event<ThingUpdated>) {
            let diff = event.changed();
            let _ = ($(diff.$field(),)*);
        }

        #[listener(model = "thing", data($($field: 0 -> [1, 2]),*), enters($($field = |field| *field > 0),*))]
        fn by_transition(event: Event<ThingEvent>) {
            drop(event);
        }
    };
}

model! {
    row rows before after event events self_ body key keys set model operation change changes changed diff differing
    columns column state states context held attempt home meta count deref fmt clone from of wrap unwrap to_row
}

fn main() {
    let row = Thing { row: 1, self_: 2, ..Thing::default() }.to_row(None);
    assert_eq!((row.row, row.self_, row.before), (1, 2, 0));
}

//! A model of any payload, with and without a row of its own.

use emitter_core::{Emits, Event, Model, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(crate = emitter_core, model = "record", all)]
struct Record<T, const N: usize = 1>
where
    T: Default,
{
    id: i64,
    payload: Option<T>,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(crate = emitter_core, create, update, key(of))]
struct Sealed<K: Ord, T> {
    of: K,
    payload: T,
    #[emits(skip)]
    token: String,
}

#[listener(crate = emitter_core, model = "record", data(payload = 7), changed(name))]
async fn of_numbers(event: Event<RecordUpdated<i32, 2>>) {
    let _: Option<i32> = event.after.payload;
    let _ = event.changed().name();
}

#[listener(crate = emitter_core, model = "sealed")]
async fn of_words(event: Event<SealedEvent<String, u8>>) {
    match &*event {
        SealedEvent::Created(created) => drop(created.row.clone()),
        SealedEvent::Updated(updated) => drop(updated.changed().payload()),
    }
}

fn main() {
    let sealed = Sealed { of: "a".to_owned(), payload: 3_u8, token: "t".to_owned() };
    assert_eq!(sealed.to_row(None), SealedRow { of: "a".to_owned(), payload: 3 });
    assert_eq!(<Record<i32> as Model>::NAME, "record");
}

//! Each form, with names that the expansion uses itself, and values of many types.
#![deny(warnings, clippy::pedantic, missing_docs)]

use emitter_diesel::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

/// A column of a type of its own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Status {
    Draft,
    Published,
}

/// A post.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(all)]
pub struct Post {
    id: i64,
    status: Status,
    title: String,
    subtitle: Option<String>,
    rating: Option<f64>,
    r#type: u8,
    row: bool,
    change: Option<Status>,
}

const FIRST: i64 = 1;
const ROW: bool = true;

#[listener(model = "post", where(id = FIRST, status = [Status::Draft, Status::Published], title = "x", row = true))]
async fn row(_: Event<PostEvent>) {}

#[listener(model = "post", data(subtitle = "x", rating = 4.5, change = Status::Draft, r#type = 7))]
async fn change(_: Event<PostCreated>) {}

#[listener(model = "post", data(subtitle = None, title, r#type))]
async fn event(_: Event<PostUpserted>) {}

#[listener(model = "post", data(status: Status::Draft -> Status::Published, title: |old| old.is_empty() -> "x"))]
fn is(_: Event<PostUpdated>) {}

#[listener(model = "post", where(|row| row.id > 1 && row.row), changed(r#type, row))]
async fn check(_: Event<PostUpdatedMany>) {}

#[listener(model = "post", enters(status = Status::Published, |row| row.id > 1))]
async fn any_row(_: Event<PostCreatedMany>) {}

#[listener(model = "post", leaves(change = None))]
async fn states(_: Event<PostDeleted>) {}

#[listener(model = "post", where(title = String::from("x"), subtitle = |subtitle| subtitle.is_some()), allow_remote)]
async fn filtered(_: Event<PostDeletedMany>) {}

#[listener(model = "post", where(id = [FIRST + 1, -FIRST], r#type = b'a' ^ 1, row = ROW || FIRST > 1))]
async fn held(_: Event<PostEvent>) {}

fn main() {}

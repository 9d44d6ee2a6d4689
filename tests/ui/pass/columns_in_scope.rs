//! Diesel's `dsl::*` brings each column into scope as a unit struct, under names that the
//! expansions might have used.

use diesel::prelude::*;
use emitter_diesel::{Context, Emits, Event, State, listener};
use serde::{Deserialize, Serialize};

mod schema {
    diesel::table! {
        posts {
            id -> Integer,
            body -> Text,
            event -> Text,
            row -> Text,
            version -> Integer,
            diff -> Integer,
            operation -> Text,
            before -> Text,
            after -> Text,
            hash_key -> Text,
            change -> Text,
            held -> Text,
            attempt -> Integer,
            state_0 -> Text,
            state_1 -> Text,
            state_2 -> Text,
        }
    }
}

use schema::posts::dsl::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct PostV1 {
    id: i32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(all, qos = 2, version = 2, earlier(PostV1))]
struct Post {
    id: i32,
    body: String,
    held: Option<String>,
}

impl From<PostV1> for Post {
    fn from(post: PostV1) -> Self {
        Self { id: post.id, body: String::new(), held: None }
    }
}

#[derive(Debug, Emits)]
#[emits(create)]
struct Hidden {
    id: i32,
    #[emits(hash)]
    body: String,
}

#[listener(model = "post", allow_remote, where(id = [1, 2], |r| r.id > 0), data(body, held = None), changed(body))]
async fn hear(_: State<u8>, _: Context, _: Event<PostUpdated>) {}

fn main() {
    let _ = (posts, id.eq(1), body, event, row, version, diff, operation, before, after, hash_key, change, held);
    let _ = (attempt, state_0, state_1, state_2);
}

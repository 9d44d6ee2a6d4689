//! Model-change events for browsers.
//!
//! A [`Stream`](stream::Stream) is an axum router to mount in your application: it tells pages of the events that you
//! choose, over WebSockets and as server-sent events. Its visitors are whoever your own extractor lets in.

pub mod stream;

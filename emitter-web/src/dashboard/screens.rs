//! The screens, each a file.

pub(super) mod event;
pub(super) mod letter;
pub(super) mod letters;
pub(super) mod listeners;
pub(super) mod live;
pub(super) mod nodes;
pub(super) mod outbox;
pub(super) mod overview;

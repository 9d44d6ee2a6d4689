//! What a start with an inbox refuses.

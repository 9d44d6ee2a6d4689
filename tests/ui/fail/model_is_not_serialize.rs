use emitter_diesel::Emits;

#[derive(Clone, Emits)]
#[emits(create)]
struct User {
    id: i32,
}

fn main() {}

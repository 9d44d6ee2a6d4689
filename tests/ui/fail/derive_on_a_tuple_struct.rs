use emitter_diesel::Emits;

#[derive(Emits)]
#[emits(create)]
struct User(i32, String);

fn main() {}

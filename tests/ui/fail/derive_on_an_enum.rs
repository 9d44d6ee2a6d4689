use emitter_diesel::Emits;

#[derive(Emits)]
#[emits(create)]
enum User {
    Admin { id: i32 },
    Guest { id: i32 },
}

fn main() {}

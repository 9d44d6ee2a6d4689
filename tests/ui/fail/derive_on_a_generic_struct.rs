use emitter_diesel::Emits;

#[derive(Emits)]
#[emits(create)]
struct User<T> {
    id: i32,
    data: T,
}

fn main() {}

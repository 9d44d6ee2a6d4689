use emitter_diesel::Emits;

#[derive(Emits)]
#[emits(create)]
struct User<'a> {
    id: i32,
    name: &'a str,
}

fn main() {}

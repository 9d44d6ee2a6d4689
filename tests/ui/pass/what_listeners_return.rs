use emitter_diesel::{Emits, Event, listener};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Emits)]
#[emits(create, update)]
struct User {
    id: i32,
}

#[listener(model = "user")]
async fn nothing(event: Event<UserEvent>) {
    drop(event);
}

#[listener(model = "user")]
async fn unit(event: Event<UserEvent>) -> () {
    drop(event);
}

#[listener(model = "user")]
async fn text(event: Event<UserEvent>) -> Result<(), String> {
    drop(event);
    Err("no".to_owned())
}

#[listener(model = "user")]
async fn borrowed(event: Event<UserEvent>) -> Result<(), &'static str> {
    drop(event);
    Err("no")
}

#[listener(model = "user")]
async fn input_output(event: Event<UserEvent>) -> std::io::Result<()> {
    drop(event);
    Ok(())
}

#[listener(model = "user")]
async fn any(event: Event<UserEvent>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    drop(event);
    Err("no".into())
}

type Outcome = Result<(), std::fmt::Error>;

#[listener(model = "user")]
fn plain(event: Event<UserEvent>) -> Outcome {
    drop(event);
    Ok(())
}

#[listener(model = "user")]
fn plain_nothing(event: Event<UserEvent>) {
    drop(event);
}

#[listener(model = "user")]
fn plain_that_cannot_be_sent(event: Event<UserEvent>) -> Result<(), Box<dyn std::error::Error>> {
    drop(event);
    Err("no".into())
}

fn main() {}

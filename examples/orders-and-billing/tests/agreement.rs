//! The whole story, told shortly.

use std::process::Command;

#[test]
fn the_books_agree_whoever_is_killed() {
    let output = Command::new(env!("CARGO_BIN_EXE_orders-and-billing")).arg("4").output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    println!("{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.ends_with("They agree.\n"));
    assert!(told.contains("billing was killed") && !told.contains("billing was killed 0 times"));
    assert!(told.contains("the broker was restarted"));
    assert_eq!(told.matches(" 0 became dead letters").count(), 2);
}

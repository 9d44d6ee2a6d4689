//! The README shows what the program prints.

use std::process::Command;

#[test]
fn the_readme_shows_what_is_printed() {
    let output = Command::new(env!("CARGO_BIN_EXE_failed-logins")).output().unwrap();
    let shown = include_str!("../README.md").split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), shown);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

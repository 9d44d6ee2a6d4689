//! The README shows what the program prints.

use std::process::Command;

#[test]
fn the_readme_shows_what_it_prints() {
    let output = Command::new(env!("CARGO_BIN_EXE_sync-queue")).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{errors}", String::from_utf8_lossy(&output.stdout));
    let shown = include_str!("../README.md").split_once("```text\n").unwrap().1.split_once("```").unwrap().0;
    assert_eq!(String::from_utf8_lossy(&output.stdout), shown);
}

//! Prometheus's own program for files of rules.

use std::path::Path;
use std::process::Command;

use super::Program;
use super::packages::run;

const PROGRAM: Program = Program { name: "promtool", debian_package: "prometheus" };

/// Looks whether Prometheus takes these rules.
///
/// # Panics
/// If it does not, with what it says.
pub fn check(rules: &Path) {
    ask(&["check", "rules"], rules);
}

/// Has Prometheus evaluate the rules that this file of unit tests names, and compares what fires.
///
/// # Panics
/// If something else does, with what.
pub fn test(tests: &Path) {
    ask(&["test", "rules"], tests);
}

fn ask(words: &[&str], file: &Path) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(PROGRAM.name);
    command.args(words).arg(file);
    run(&PROGRAM, command, folder.path());
}

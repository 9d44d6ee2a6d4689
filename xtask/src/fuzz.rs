//! The fuzz targets: what any bytes do to whatever reads bytes of others.

use std::fs;

use crate::steps::{Failure, Steps, cargo, installed, root};

/// Each has a file of its checks in `tests/tests/fuzzed`, and its corpus in `fuzz/corpus`.
const TARGETS: [&str; 4] = ["envelope", "topic", "filter", "configuration"];

/// What is missing here, and how to come by it.
pub(crate) fn missing() -> Option<&'static str> {
    if !installed("cargo-fuzz") {
        return Some("cargo-fuzz is not installed: cargo install cargo-fuzz --locked");
    }
    (!installed("c++")).then_some("there is no C++ compiler: on Debian, apt-get install g++")
}

/// A million inputs for each of these targets, or for all.
pub(crate) fn run(steps: &mut Steps, wanted: &[String]) -> Result<(), Failure> {
    if let Some(unknown) = wanted.iter().find(|name| !TARGETS.contains(&name.as_str())) {
        return Err(Failure::new(format!(
            "no fuzz target is called `{unknown}`; there are {}",
            TARGETS.join(", ")
        )));
    }
    for target in
        TARGETS.into_iter().filter(|target| wanted.is_empty() || wanted.iter().any(|name| name == target))
    {
        // What the fuzzer finds of interest goes on from run to run, and is none of git's business.
        let grown = root().join("fuzz/target/corpus").join(target);
        fs::create_dir_all(&grown).map_err(|error| Failure::new(format!("{}: {error}", grown.display())))?;
        let mut command =
            cargo(&format!("fuzz run {target} fuzz/target/corpus/{target} fuzz/corpus/{target}"));
        command.args(["--", "-runs=1000000", "-timeout=10"]);
        // The stable compiler shows where a program has been, too, if it is told to behave as a nightly one.
        command.env("RUSTC_BOOTSTRAP", "1");
        steps.run(target, command)?;
    }
    Ok(())
}

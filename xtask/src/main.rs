//! The commands of this repository. `cargo xtask test` is the one to know: it checks everything.

mod compile_cost;
mod fuzz;
mod servers;
mod steps;
mod suites;
mod tally;

use std::env;
use std::process::{Command, ExitCode};

use crate::steps::{Failure, Steps, cargo, installed};

const USAGE: &str = "\
cargo xtask COMMAND [ARGUMENTS]

  test    everything: servers, format, lints, docs, tests, doctests, the examples
  ci      the same on a build machine: a failing test does not end the run of the others
  bless   accept what the ui and snapshot tests see now; then read the diff
  bench   the benchmarks; `bench compile [ROUNDS]`: what the macros cost the compiler
  prove   the long proofs: the same tests with bigger numbers, in release mode, over real servers, a thousand
          visitors of a stream, and the fuzz targets; `prove fuzz [TARGET…]`: these alone

bless, bench and prove hand further ARGUMENTS on, as in `cargo xtask bless -p emitter-macros`.
";

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let result = match (command.as_str(), rest.as_slice()) {
        ("test", []) => test(Mode::Desk),
        ("ci", []) => test(Mode::BuildMachine),
        ("bless", rest) => bless(rest),
        ("bench", [what, rest @ ..]) if what == "compile" => compile_cost::run(rest),
        ("bench", rest) => bench(rest),
        ("prove", [what, rest @ ..]) if what == "fuzz" => prove_fuzz(rest),
        ("prove", rest) => prove(rest),
        ("test" | "ci", _) => Err(Failure::new("test and ci take no arguments; for a part: cargo test")),
        ("help" | "--help" | "-h" | "", _) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        (unknown, _) => Err(Failure::new(format!("there is no command `{unknown}`\n\n{USAGE}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\nxtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Who waits for the answer.
enum Mode {
    /// Somebody who wants the first failure at once.
    Desk,
    /// Nobody: all failures in one run.
    BuildMachine,
}

/// Everything, in the order in which it fails fastest.
fn test(mode: Mode) -> Result<(), Failure> {
    let mut steps = Steps::new();
    steps.act("servers", servers::provide)?;
    steps.act("rustfmt and clippy", components)?;
    steps.run("format", cargo("fmt --all --check"))?;
    steps.run("lints", cargo("clippy --workspace --all-targets --all-features -- -D warnings"))?;
    let mut docs = cargo("doc --workspace --no-deps --all-features");
    docs.env("RUSTDOCFLAGS", "-D warnings");
    steps.run("docs", docs)?;

    steps.tests("tests", tests(mode))?;
    // With all features, OpenTelemetry is always there.
    steps.tests(
        "traces without OpenTelemetry",
        cargo("test -p emitter-core --no-default-features --features macros,testing --test traces"),
    )?;
    steps.tests("doctests", cargo("test --doc --workspace --all-features"))?;

    steps.run("quickstart", cargo("run -p quickstart"))?;
    steps.run("order-desk", cargo("run -p order-desk"))?;
    steps.run("tags", cargo("run -p tags"))?;
    steps.run("orders-and-billing", cargo("run -p orders-and-billing -- 5"))?;
    if installed("cargo-deny") {
        steps.run("licences and advisories", cargo("deny check"))?;
    } else {
        steps.leave_out("licences and advisories", "cargo deny is not installed");
    }
    steps.finish();
    Ok(())
}

/// All tests but the doctests, with nextest where it is installed.
fn tests(mode: Mode) -> Command {
    let mut command = cargo(match (installed("cargo-nextest"), mode) {
        (true, Mode::Desk) => "nextest run",
        (true, Mode::BuildMachine) => "nextest run --profile ci",
        (false, Mode::Desk) => "test --lib --bins --tests --examples",
        (false, Mode::BuildMachine) => "test --lib --bins --tests --examples --no-fail-fast",
    });
    command.args(["--workspace", "--all-features"]);
    command
}

/// Adds rustfmt and clippy to a toolchain that was installed without them.
fn components() -> Result<(), Failure> {
    let missing: Vec<&str> = [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")]
        .into_iter()
        .filter(|(program, _)| !installed(program))
        .map(|(_, component)| component)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let advice = format!("install {} with the Rust toolchain", missing.join(" and "));
    if !installed("rustup") {
        return Err(Failure::new(advice));
    }
    let status = Command::new("rustup").args(["component", "add"]).args(&missing).status();
    if status.is_ok_and(|status| status.success()) { Ok(()) } else { Err(Failure::new(advice)) }
}

fn bless(rest: &[String]) -> Result<(), Failure> {
    let mut command = cargo("test --no-fail-fast --lib --bins --tests");
    if rest.is_empty() {
        command.arg("--workspace");
    }
    command.args(rest).env("TRYBUILD", "overwrite").env("INSTA_UPDATE", "always");
    let mut steps = Steps::new();
    steps.run("bless", command)?;
    // Only now are the answers there that it is rendered from.
    let mut table = cargo("test -p emitter-tests --test mistakes");
    table.env("TRYBUILD", "overwrite");
    steps.run("table of mistakes", table)?;
    let mut table = cargo("test -p emitter-tests --features servers --test contract table");
    table.env("TRYBUILD", "overwrite");
    steps.run("table of brokers", table)?;
    println!("\nNow read every changed .stderr and .snap, whole, before you commit them: git diff");
    Ok(())
}

fn bench(rest: &[String]) -> Result<(), Failure> {
    let mut command = cargo("bench --benches");
    if rest.is_empty() {
        command.args(["--workspace", "--all-features"]);
    }
    command.args(rest);
    Steps::new().run("bench", command)
}

fn prove(rest: &[String]) -> Result<(), Failure> {
    let mut steps = Steps::new();
    steps.act("servers", servers::provide)?;
    let mut command = if installed("cargo-nextest") {
        cargo("nextest run --profile proof -p emitter-tests --features servers --release")
    } else {
        cargo("test -p emitter-tests --features servers --release --lib --tests")
    };
    command.args(rest).env("EMITTER_PROOF", "full");
    steps.tests("proofs", command)?;
    if rest.is_empty() {
        let mut visitors = cargo("bench -p emitter-web --bench visitors");
        visitors.env("EMITTER_PROOF", "full");
        steps.run("visitors", visitors)?;
        // For five minutes.
        steps.run("orders-and-billing", cargo("run --release -p orders-and-billing -- 300"))?;
    }
    match fuzz::missing() {
        // Whoever names a part of the tests wants that part.
        _ if !rest.is_empty() => {}
        Some(why) => steps.leave_out("fuzz targets", why),
        None => fuzz::run(&mut steps, &[])?,
    }
    steps.finish();
    Ok(())
}

fn prove_fuzz(targets: &[String]) -> Result<(), Failure> {
    if let Some(why) = fuzz::missing() {
        return Err(Failure::new(why));
    }
    fuzz::run(&mut Steps::new(), targets)
}

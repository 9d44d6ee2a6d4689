//! What the compiler says of a user's program: `ui/fail`, one mistake each, with its answer, and `ui/pass`.

use std::process::Command;

/// The answers are this compiler's: other versions word and arrange their own parts otherwise.
const COMPILER: &str = env!("CARGO_PKG_RUST_VERSION");

#[test]
fn ui() {
    let compiler =
        Command::new("rustc").arg("--version").output().expect("rustc runs, for it built this test");
    let compiler = String::from_utf8_lossy(&compiler.stdout);
    assert!(
        compiler.starts_with(&format!("rustc {COMPILER}.")),
        "the answers in `ui/fail` are those of rustc {COMPILER}, and this is {compiler}: \
         run `cargo +{COMPILER} test -p emitter-tests --test ui`"
    );
    let programs = trybuild::TestCases::new();
    programs.pass("ui/pass/*.rs");
    programs.compile_fail("ui/fail/*.rs");
}

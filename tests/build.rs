//! Says what plain `cargo test` leaves out.

use std::{env, fs};

// The same reading of the manifest that `cargo xtask test` uses to count these suites.
#[path = "../xtask/src/suites.rs"]
mod suites;

fn main() {
    println!("cargo::rerun-if-changed=Cargo.toml");
    println!("cargo::rerun-if-changed=../xtask/src/suites.rs");
    if env::var_os("CARGO_FEATURE_SERVERS").is_some() {
        return;
    }
    let manifest = fs::read_to_string("Cargo.toml").expect("cargo runs this in the package's folder");
    let suites = suites::needing_servers(&manifest).join(", ");
    println!(
        "cargo::warning=test suites left out, for they need servers: {suites}. `cargo xtask test` runs all."
    );
}

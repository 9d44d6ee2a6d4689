#![no_main]

// The test `fuzzed` runs the same check on the corpus.
#[path = "../../tests/tests/fuzzed/configuration.rs"]
mod configuration;

libfuzzer_sys::fuzz_target!(|input: configuration::Input<'_>| input.check());

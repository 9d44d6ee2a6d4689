#![no_main]

// The test `fuzzed` runs the same check on the corpus.
#[path = "../../tests/tests/fuzzed/envelope.rs"]
mod envelope;

libfuzzer_sys::fuzz_target!(|input: envelope::Input<'_>| input.check());

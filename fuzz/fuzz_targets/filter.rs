#![no_main]

// The test `fuzzed` runs the same check on the corpus.
#[path = "../../tests/tests/fuzzed/filter.rs"]
mod filter;

libfuzzer_sys::fuzz_target!(|input: filter::Input<'_>| input.check());

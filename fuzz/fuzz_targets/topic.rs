#![no_main]

// The test `fuzzed` runs the same check on the corpus.
#[path = "../../tests/tests/fuzzed/topic.rs"]
mod topic;

libfuzzer_sys::fuzz_target!(|input: topic::Input<'_>| input.check());

//! What the fuzz targets try with any input (`fuzz/`), tried with those that are kept: the ones that they begin with, and
//! each that has found something.

mod configuration;
mod envelope;
mod filter;
mod topic;

use std::fs;
use std::path::Path;

use arbitrary::{Arbitrary, Unstructured};

/// Hands each file of a target's corpus to its check, as the fuzzer does.
fn corpus(target: &str, check: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus of {target} is gone");
    for file in files {
        // Shown where the check fails.
        println!("{}", file.display());
        check(&fs::read(file).unwrap());
    }
}

macro_rules! targets {
    ($($target:ident)*) => { $(
        #[test]
        fn $target() {
            corpus(stringify!($target), |bytes| {
                let input = $target::Input::arbitrary_take_rest(Unstructured::new(bytes)).expect("an input");
                println!("{input:?}");
                input.check();
            });
        }
    )* };
}

targets! { configuration envelope filter topic }

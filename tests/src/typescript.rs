//! The compiler of TypeScript, for programs that import what pages do.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::servers::packages::{self, NODE};

/// What is installed, to the byte.
const FILES: [(&str, &str); 2] = [
    ("package.json", include_str!("../typescript/package.json")),
    ("package-lock.json", include_str!("../typescript/package-lock.json")),
];

/// The compiler, installed.
#[derive(Debug)]
pub struct TypeScript(PathBuf);

impl TypeScript {
    /// Installs it into a folder below this one, out of npm's registry, unless that was done before.
    ///
    /// # Panics
    /// If Node.js or npm are missing, or npm cannot have it.
    pub fn provide(target: impl AsRef<Path>) -> Self {
        Self(packages::install(target.as_ref(), "typescript", &FILES, |_| {}))
    }

    /// Compiles this file of a folder, and writes the JavaScript beside it; in strict mode, with what browsers have.
    ///
    /// # Errors
    /// What the compiler says of its mistakes.
    ///
    /// # Panics
    /// If Node.js is missing.
    pub fn compile(&self, folder: &Path, file: &str) -> Result<(), String> {
        self.compile_with(folder, file, &[])
    }

    /// The same, with these options beside.
    ///
    /// # Errors
    /// What the compiler says of its mistakes.
    ///
    /// # Panics
    /// If Node.js is missing.
    pub fn compile_with(&self, folder: &Path, file: &str, options: &[&str]) -> Result<(), String> {
        let compiler = self.0.join("node_modules/typescript/bin/tsc");
        let mut node = Command::new(NODE.name);
        node.arg(compiler).args(["--strict", "--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess"]);
        node.args(["--target", "es2022", "--module", "es2022", "--moduleResolution", "bundler"]);
        node.args(["--lib", "es2022,dom,dom.iterable", file]).args(options).current_dir(folder);
        let output = node.output().unwrap_or_else(|error| panic!("{error}: {}", NODE.advice()));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    }
}

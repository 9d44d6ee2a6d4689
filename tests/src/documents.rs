//! Programs in Node.js that read the documents which are made of models.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::servers::packages::{self, NODE};

/// What is installed, to the byte.
const FILES: [(&str, &str); 3] = [
    ("package.json", include_str!("../documents/package.json")),
    ("package-lock.json", include_str!("../documents/package-lock.json")),
    ("validate.js", include_str!("../documents/validate.js")),
];

/// The program in TypeScript that hears events, as a text.
pub const HEAR: &str = include_str!("../documents/hear.ts");

/// The packages, installed.
#[derive(Debug)]
pub struct Readers(PathBuf);

impl Readers {
    /// Installs them into a folder below this one, out of npm's registry, unless that was done before.
    ///
    /// # Panics
    /// If Node.js or npm are missing, or npm cannot have them.
    pub fn provide(target: impl AsRef<Path>) -> Self {
        Self(packages::install(target.as_ref(), "documents", &FILES, |_| {}))
    }

    /// Where the packages are.
    #[must_use]
    pub fn modules(&self) -> PathBuf {
        self.0.join("node_modules")
    }

    /// What AsyncAPI's own parser finds in a document, as JSON.
    ///
    /// # Panics
    /// If Node.js is missing, or the parser dies of the document.
    #[must_use]
    pub fn asyncapi(&self, document: &Path) -> String {
        let mut node = Command::new(NODE.name);
        node.arg("validate.js").arg(document).current_dir(&self.0).stderr(Stdio::inherit());
        let output = node.output().unwrap_or_else(|error| panic!("{error}: {}", NODE.advice()));
        assert!(output.status.success(), "the parser ends with {}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A program of Node.js, ready to be started.
    #[must_use]
    pub fn program(&self, folder: &Path, file: &str) -> Command {
        let mut node = Command::new(NODE.name);
        node.arg(file).current_dir(folder);
        node
    }
}

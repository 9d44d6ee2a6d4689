//! A disk that fails.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A disk that fails when it is told to: for a program that was started [on](Self::hold) it, and for what lies in one
/// folder.
///
/// Between the program and the system is a library that is compiled for it (`LD_PRELOAD`). Nobody else notices.
#[derive(Debug)]
pub struct Disk {
    folder: TempDir,
}

/// How a disk fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing has room that needs more of it (ENOSPC): what is there can be overwritten.
    Full,
    /// Nothing at all can be written (ENOSPC).
    Dead,
    /// The next fsync fails (EIO): one, and no more.
    Fsync,
}

impl Fault {
    fn file(self) -> &'static str {
        match self {
            Self::Full => "switch.full",
            Self::Dead => "switch.dead",
            Self::Fsync => "switch.fsync",
        }
    }
}

impl Disk {
    /// One that works, for the time being.
    ///
    /// # Panics
    /// If there is no C compiler.
    #[expect(clippy::new_without_default, reason = "it compiles a library")]
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("disk-").tempdir().expect("a temporary folder");
        // Whoever a server runs as notes here that it failed.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("the folder is ours");
        let disk = Self { folder };
        let source = disk.folder.path().join("disk.c");
        fs::write(&source, include_str!("disk.c")).expect("the folder is writable");
        let compiled = Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .args([&disk.library(), &source])
            .arg("-ldl")
            .status()
            .unwrap_or_else(|error| panic!("this test needs a C compiler, `cc`: {error}"));
        assert!(compiled.success(), "the library of a disk that fails was not compiled");
        disk
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("disk.so")
    }

    fn switch(&self, fault: Fault) -> PathBuf {
        self.folder.path().join(fault.file())
    }

    /// Has a program keep what is in this folder on it.
    ///
    /// # Panics
    /// If there is no such folder.
    pub fn hold<'c>(&self, command: &'c mut Command, folder: &Path) -> &'c mut Command {
        // As the system tells it of an open file.
        let folder = folder.canonicalize().expect("a folder");
        command
            .env("LD_PRELOAD", self.library())
            .env("FAULTY_DISK", folder)
            .env("FAULTY_SWITCH", self.folder.path().join("switch"))
    }

    /// From now on it fails.
    ///
    /// # Panics
    /// If it cannot be told.
    pub fn fail(&self, fault: Fault) {
        File::create(self.switch(fault)).expect("the folder is writable");
    }

    /// It works again.
    pub fn work(&self) {
        for fault in [Fault::Full, Fault::Dead, Fault::Fsync] {
            // Most are not there.
            let _ = fs::remove_file(self.switch(fault));
        }
    }

    /// Whether something failed since this was asked last.
    pub fn has_failed(&self) -> bool {
        fs::remove_file(self.folder.path().join("switch.failed")).is_ok()
    }
}

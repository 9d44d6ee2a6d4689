//! The files of a database server, made once and copied for each test.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::getuid;

use super::Program;
use super::process::search_path;

/// A folder that `make` has filled for a server, made anew only where no test has before.
///
/// Making one takes seconds of work; a copy takes a tenth of one.
pub(super) fn template(server: &Program, make: impl FnOnce(&Path) -> Result<(), String>) -> PathBuf {
    let folder = env::temp_dir().join(format!("emitter-test-databases-{}", getuid().as_raw()));
    fs::create_dir_all(&folder).expect("a folder for the files of databases");
    // One version does not read the files of another.
    let version = Command::new(server.name).arg("--version").env("PATH", search_path()).output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let version = version.unwrap_or_else(|error| panic!("{}: {error}", server.advice()));
    let name: String = version.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = name.trim_matches('-');
    let lock = File::create(folder.join(format!("{name}.lock"))).expect("a file for the lock");
    lock.lock().expect("the lock is waited for");
    let done = folder.join(name);
    if !done.exists() {
        let begun = folder.join(format!("{name}.begun"));
        let _ = fs::remove_dir_all(&begun);
        fs::create_dir(&begun).expect("a folder for a database");
        make(&begun).unwrap_or_else(|failure| panic!("{failure}"));
        fs::rename(&begun, &done).expect("the folder gets its name");
    }
    done
}

/// Copies a folder with all that is in it, owners included if this is root.
pub(super) fn copy(from: &Path, to: &Path) {
    let owner = fs::metadata(from).expect("it is there");
    fs::create_dir_all(to).expect("a folder for the copy");
    for entry in fs::read_dir(from).expect("it is readable") {
        let entry = entry.expect("it is readable");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).expect("a file is copied");
            own(&from, &to);
        }
    }
    fs::set_permissions(to, owner.permissions()).expect("the copy is ours");
    own(from, to);
}

fn own(from: &Path, to: &Path) {
    if getuid().is_root() {
        let owner = fs::metadata(from).expect("it is there");
        chown(to, Some(owner.uid()), Some(owner.gid())).expect("root gives files away");
    }
}

/// The ids of a user of this machine.
pub(super) fn user(name: &str) -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut ids = line.split(':').skip(2).map(str::parse);
    Some((ids.next()?.ok()?, ids.next()?.ok()?))
}

//! Packages of npm, and Node.js that runs them.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Program;
use super::process::Process;

pub(crate) const NODE: Program = Program { name: "node", debian_package: "nodejs" };
const NPM: Program = Program { name: "npm", debian_package: "npm" };

/// The folder below `target` where these files are, and the packages that their `package-lock.json` names.
/// They are installed only where no test has before, and those that ask meanwhile wait.
///
/// `prepare` does in that folder what is left, before others see it.
pub(crate) fn install(
    target: &Path,
    name: &str,
    files: &[(&str, &str)],
    prepare: impl FnOnce(&Path),
) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    files.hash(&mut hasher);
    let hashed = format!("{name}-{:016x}", hasher.finish());
    fs::create_dir_all(target).expect("a folder for what npm installs");
    let lock = File::create(target.join(format!("{name}.lock"))).expect("a file for the lock");
    lock.lock().expect("the lock is waited for");
    let done = target.join(&hashed);
    if !done.exists() {
        let begun = target.join(format!("{hashed}.begun"));
        let _ = fs::remove_dir_all(&begun);
        fs::create_dir(&begun).unwrap_or_else(|error| panic!("a folder for {name}: {error}"));
        for (file, text) in files {
            fs::write(begun.join(file), text).unwrap_or_else(|error| panic!("write {file}: {error}"));
        }
        let mut npm = Command::new(NPM.name);
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        run(&NPM, npm, &begun);
        prepare(&begun);
        fs::rename(&begun, &done).expect("the folder gets its name");
    }
    done
}

/// Runs this in a folder, to its end.
pub(crate) fn run(program: &Program, mut command: Command, folder: &Path) {
    command.current_dir(folder);
    let log = folder.join(format!("{}.log", program.name));
    let ended = Process::spawn(program, command, log).and_then(Process::finish);
    ended.unwrap_or_else(|failure| panic!("{failure}"));
}

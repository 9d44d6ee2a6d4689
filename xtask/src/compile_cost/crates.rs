//! A workspace of the generated crates, and cargo in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

use crate::compile_cost::specimen::Specimen;
use crate::compile_cost::stopwatch::Time;
use crate::steps::{Failure, cargo, root};

/// The crates, written.
pub(crate) struct Crates {
    folder: PathBuf,
}

/// What is asked of the compiler.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    /// What an editor asks for: `cargo check`.
    Check,
    /// A debug build. It compiles whatever the crate offers, called or not.
    Build,
}

impl Mode {
    pub(crate) const ALL: [Self; 2] = [Self::Check, Self::Build];

    const fn word(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Build => "build",
        }
    }
}

impl Crates {
    /// Writes them where cargo puts what it builds. They stay there, for who wants to look into them.
    pub(crate) fn write() -> Result<Self, Failure> {
        let crates = Self { folder: target()?.join("compile-cost") };
        crates
            .write_files()
            .map_err(|error| Failure::new(format!("{}: {error}", crates.folder.display())))?;
        Ok(crates)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn write_files(&self) -> io::Result<()> {
        let names: Vec<_> = Specimen::ALL.iter().map(|specimen| format!("{:?}", specimen.name())).collect();
        let workspace = format!("[workspace]\nresolver = \"3\"\nmembers = [{}]\n", names.join(", "));
        fs::create_dir_all(&self.folder)?;
        fs::write(self.folder.join("Cargo.toml"), workspace)?;
        // The versions that the project is tested with; cargo drops what is not needed.
        fs::copy(root().join("Cargo.lock"), self.folder.join("Cargo.lock"))?;

        let core = root().join("emitter-core");
        for specimen in Specimen::ALL {
            let manifest = format!(
                "[package]\nname = {:?}\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
                 emitter-core = {{ path = {core:?} }}\nserde = {{ version = \"1\", features = [\"derive\"] }}\n",
                specimen.name(),
            );
            fs::create_dir_all(self.library(specimen).with_file_name(""))?;
            fs::write(self.folder.join(specimen.name()).join("Cargo.toml"), manifest)?;
            fs::write(self.library(specimen), specimen.source())?;
        }
        Ok(())
    }

    fn library(&self, specimen: Specimen) -> PathBuf {
        self.folder.join(specimen.name()).join("src/lib.rs")
    }

    /// Compiles everything once, so that later only the touched crate is left to do.
    pub(crate) fn warm(&self, mode: Mode) -> Result<(), Failure> {
        let mut command = self.cargo(mode);
        let status = command.arg("--workspace").status();
        let done = status.is_ok_and(|status| status.success());
        if done { Ok(()) } else { Err(Failure::new("the generated crates do not compile; see above")) }
    }

    /// Compiles one crate anew.
    pub(crate) fn compile(&self, specimen: Specimen, mode: Mode) -> Result<Time, Failure> {
        let library = self.library(specimen);
        fs::write(&library, specimen.source())
            .map_err(|error| Failure::new(format!("{}: {error}", library.display())))?;
        let mut command = self.cargo(mode);
        command.args(["--package", specimen.name()]);
        let (output, time) = Time::of(|| command.output());
        let output = output.map_err(|error| Failure::new(format!("cargo could not be started: {error}")))?;
        let told = String::from_utf8_lossy(&output.stderr);
        // A crate that cargo takes for fresh would look cheap.
        let compiled = told.lines().filter(|line| line.contains("Checking ") || line.contains("Compiling "));
        if output.status.success() && compiled.count() == 1 { Ok(time) } else { Err(Failure::new(told)) }
    }

    fn cargo(&self, mode: Mode) -> Command {
        let mut command = cargo(mode.word());
        // Incremental builds depend on what changed since the last; a wrapper may answer from a cache.
        command.current_dir(&self.folder).env("CARGO_INCREMENTAL", "0").env_remove("RUSTC_WRAPPER");
        command.env("CARGO_TARGET_DIR", self.folder.join("target")).env("CARGO_TERM_COLOR", "never");
        command
    }
}

/// Where cargo puts what it builds: this program lies in `debug` of it.
fn target() -> Result<PathBuf, Failure> {
    let program = env::current_exe().ok();
    let target = program.as_deref().and_then(|program| program.ancestors().nth(2));
    target.map(Path::to_owned).ok_or_else(|| Failure::new("this program does not know where it lies"))
}

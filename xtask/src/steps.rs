//! Steps: named commands that run one after the other and stop at the first that fails.

use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use crate::suites;
use crate::tally::Tally;

/// What ran so far, how long it took, and which tests passed.
pub(crate) struct Steps {
    started: Instant,
    done: Vec<(&'static str, Duration)>,
    left_out: Vec<(&'static str, &'static str)>,
    tally: Tally,
}

/// Why the whole run ends here, as a sentence for whoever reads the terminal.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Steps {
    pub(crate) fn new() -> Self {
        let manifest = std::fs::read_to_string(root().join("tests/Cargo.toml")).unwrap_or_default();
        Self {
            started: Instant::now(),
            done: Vec::new(),
            left_out: Vec::new(),
            tally: Tally::new(suites::needing_servers(&manifest)),
        }
    }

    /// Runs a command with the terminal as its own.
    pub(crate) fn run(&mut self, name: &'static str, mut command: Command) -> Result<(), Failure> {
        self.timed(name, &line(&command), |_| {
            let status = command.status();
            check(&command, status)
        })
    }

    /// Runs a test runner: prints what it prints, and counts the tests that passed.
    pub(crate) fn tests(&mut self, name: &'static str, mut command: Command) -> Result<(), Failure> {
        self.timed(name, &line(&command), |tally| {
            let status = stream(&mut command, |line| tally.read(line));
            check(&command, status)
        })
    }

    /// Does something that is no single command.
    pub(crate) fn act(
        &mut self,
        name: &'static str,
        action: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.timed(name, "", |_| action())
    }

    /// Says that a step is not done, and why; the summary repeats it.
    pub(crate) fn leave_out(&mut self, name: &'static str, why: &'static str) {
        println!("\n── {name}: left out, {why}");
        self.left_out.push((name, why));
    }

    /// Prints how long each step took and how many tests of each kind passed.
    pub(crate) fn finish(self) {
        println!("\n── passed in {}\n", Seconds(self.started.elapsed()));
        for (name, took) in &self.done {
            println!("{:>12}  {name}", Seconds(*took).to_string());
        }
        for (name, why) in &self.left_out {
            println!("{:>12}  {name} ({why})", "left out");
        }
        println!("\n{}", self.tally);
    }

    fn timed(
        &mut self,
        name: &'static str,
        command: &str,
        step: impl FnOnce(&mut Tally) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        println!("{}", format!("\n── {name}  {command}").trim_end());
        let started = Instant::now();
        let result = step(&mut self.tally);
        let took = started.elapsed();
        self.done.push((name, took));
        match result {
            Ok(()) => {
                println!("── {name}: passed in {}", Seconds(took));
                Ok(())
            }
            Err(Failure(why)) => Err(Failure(format!("step `{name}` failed after {}: {why}", Seconds(took)))),
        }
    }
}

impl Failure {
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A cargo command in the repository's root; its arguments are separated by spaces.
pub(crate) fn cargo(arguments: &str) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments.split_whitespace()).current_dir(root());
    command
}

/// Whether a program answers to `--version`.
pub(crate) fn installed(program: &str) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| output.status.success())
}

/// The repository, wherever `cargo xtask` was called.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ lies in the repository")
}

/// Both streams of the command through one pipe, so that their lines keep their order.
fn stream(command: &mut Command, mut read: impl FnMut(&str)) -> io::Result<ExitStatus> {
    let (reader, writer) = io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // The command holds the writing ends too: without this the pipe would never end.
    command.stdout(io::stdout()).stderr(io::stderr());

    let mut stdout = io::stdout();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        stdout.write_all(&line)?;
        stdout.write_all(b"\n")?;
        read(&String::from_utf8_lossy(&line));
    }
    child.wait()
}

fn check(command: &Command, status: io::Result<ExitStatus>) -> Result<(), Failure> {
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure(format!("{status}\nTo see this step alone: {}", line(command)))),
        Err(error) => Err(Failure(format!("{error}\nCould not start: {}", line(command)))),
    }
}

/// The command as one would type it.
fn line(command: &Command) -> String {
    let mut line = String::new();
    for (key, value) in command.get_envs() {
        let value = value.unwrap_or_default();
        line += &format!("{}={:?} ", key.display(), value);
    }
    line += &command.get_program().display().to_string();
    for argument in command.get_args() {
        line += &format!(" {}", argument.display());
    }
    line
}

/// `0.4 s`, `12.0 s`, `3 min 05 s`.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0..60 => write!(f, "{:.1} s", self.0.as_secs_f64()),
            whole => write!(f, "{} min {:02} s", whole / 60, whole % 60),
        }
    }
}

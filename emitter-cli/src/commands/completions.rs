//! What a shell completes.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::report::{Failure, Out, Verdict};

/// For which shell.
#[derive(Args)]
pub(crate) struct Completions {
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self, out: Out) -> Result<Verdict, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::Cli::command(), "emitter", &mut script);
        out.write(&script)?;
        Ok(Verdict::Well)
    }
}

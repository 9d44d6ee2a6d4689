//! A service in a process of its own, which is killed and started again.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

pub(crate) struct Process {
    name: &'static str,
    database: String,
    broker: String,
    life: Option<Life>,
    kills: u32,
    /// What all its lives have told together.
    counted: Counted,
}

struct Life {
    child: Child,
    told: JoinHandle<io::Result<Counted>>,
}

type Counted = BTreeMap<String, u64>;

impl Process {
    pub(crate) fn start(name: &'static str, database: String, broker: String) -> io::Result<Self> {
        let mut process = Self { name, database, broker, life: None, kills: 0, counted: Counted::new() };
        process.revive()?;
        Ok(process)
    }

    /// Begins the next life, if it is dead.
    pub(crate) fn revive(&mut self) -> io::Result<()> {
        if self.life.is_some() {
            return Ok(());
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.args([self.name, &self.database, &self.broker]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        self.life = Some(Life { child, told: std::thread::spawn(move || listen(BufReader::new(output))) });
        Ok(())
    }

    /// Without a word, at whatever it is doing.
    pub(crate) fn kill(&mut self) -> io::Result<()> {
        let Some(mut life) = self.life.take() else { return Ok(()) };
        if let Some(status) = life.child.try_wait()? {
            return Err(io::Error::other(format!("{} ended by itself: {status}", self.name)));
        }
        life.child.kill()?;
        self.kills += 1;
        self.bury(life).map(drop)
    }

    /// Lets it come to its own end; whether that was a good one.
    pub(crate) fn finish(&mut self) -> io::Result<bool> {
        // Its input ends, and so it knows.
        self.life.take().map_or(Ok(true), |life| self.bury(life))
    }

    fn bury(&mut self, mut life: Life) -> io::Result<bool> {
        let status = life.child.wait()?;
        let told = life.told.join().map_err(|_| io::Error::other("nobody listened to it"))??;
        told.into_iter().for_each(|(what, count)| *self.counted.entry(what).or_default() += count);
        Ok(status.success())
    }
}

/// Reads `what=count` of each line. The last one counts.
fn listen(output: impl BufRead) -> io::Result<Counted> {
    let mut counted = Counted::new();
    for line in output.lines() {
        let line = line?;
        let pairs = line.split(' ').filter_map(|pair| pair.split_once('='));
        counted.extend(pairs.filter_map(|(what, count)| Some((what.to_owned(), count.parse().ok()?))));
    }
    Ok(counted)
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, kills, .. } = self;
        let count = |what: &str| self.counted.get(what).copied().unwrap_or_default();
        writeln!(
            f,
            "{name} was killed {kills} times, and rolled {} transactions back",
            count("rolled_back")
        )?;
        let (dropped, already_done) = (count("dropped"), count("already_done"));
        writeln!(
            f,
            "    {} events came to it again: {dropped} to the same life, {already_done} to a later one",
            dropped + already_done
        )?;
        writeln!(
            f,
            "    {} events came out of the other's history, {} became dead letters",
            count("recovered"),
            count("dead_letters")
        )
    }
}

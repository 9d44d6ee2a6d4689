//! What a command found, and how it is printed.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use emitter_diesel::dead_letters::BookError;
use emitter_diesel::mirror::MirrorError;
use emitter_diesel::outbox::OpenError;
use emitter_diesel::requests::RequestError;
use serde::Serialize;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// Done, and nothing to look after.
    Well,
    /// Done, and something is to be looked after.
    Look,
    /// Not done.
    NotDone,
}

impl Verdict {
    /// There is something to look after where something was found.
    pub(crate) fn of(findings: &[String]) -> Self {
        if findings.is_empty() { Self::Well } else { Self::Look }
    }
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Well => Self::from(0),
            Verdict::Look => Self::from(1),
            Verdict::NotDone => Self::from(2),
        }
    }
}

/// Why a command was not done.
pub(crate) enum Failure {
    /// In words, with what to do about it. What of it is secret is hidden where it is printed.
    Said(String),
    /// The report could not be written.
    Output(io::Error),
}

impl Failure {
    pub(crate) fn said(words: impl Into<String>) -> Self {
        Self::Said(words.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // An error of a database may have lines of its own.
            Self::Said(words) => write!(f, "{}", Plain(words.trim_end())),
            Self::Output(error) => write!(f, "the report cannot be written: {error}"),
        }
    }
}

impl From<String> for Failure {
    fn from(words: String) -> Self {
        Self::Said(words)
    }
}

impl From<diesel::result::Error> for Failure {
    fn from(error: diesel::result::Error) -> Self {
        Self::Said(format!("the database: {error}"))
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        Self::Said(error.to_string())
    }
}

impl From<BookError> for Failure {
    fn from(error: BookError) -> Self {
        Self::Said(error.to_string())
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self::Said(error.to_string())
    }
}

impl From<MirrorError> for Failure {
    fn from(error: MirrorError) -> Self {
        Self::Said(error.to_string())
    }
}

/// Where reports go.
#[derive(Clone, Copy)]
pub(crate) struct Out {
    pub(crate) json: bool,
}

impl Out {
    /// Prints a report: in JSON one line, so that several are lines of their own.
    pub(crate) fn print<R: Serialize + fmt::Display>(self, report: &R) -> Result<(), Failure> {
        let text = if self.json {
            let json = serde_json::to_string(report);
            json.map_err(|error| Failure::said(format!("the report cannot be written: {error}")))? + "\n"
        } else {
            report.to_string()
        };
        self.write(text.as_bytes())
    }

    /// Writes bytes as they are.
    pub(crate) fn write(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).map_err(Failure::Output)
    }
}

/// Asks whether it is to be done; anything but `y` or `yes` means no.
pub(crate) fn agreed(question: &str) -> Result<bool, Failure> {
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::said(format!("nobody can be asked: {error}")))?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// A text of others, on one line and without what a terminal would take for orders.
pub(crate) struct Plain<'a>(pub(crate) &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(char::is_control) {
            match part.char_indices().next_back().filter(|(_, last)| last.is_control()) {
                Some((place, last)) => write!(f, "{}{}", &part[..place], last.escape_default())?,
                None => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

/// A text of others that may be absent.
pub(crate) fn or_dash(text: Option<&str>) -> Plain<'_> {
    Plain(text.unwrap_or("-"))
}

/// What was found, each on a line of its own.
pub(crate) fn list(f: &mut fmt::Formatter<'_>, findings: &[String]) -> fmt::Result {
    findings.iter().try_for_each(|finding| writeln!(f, "! {}", Plain(finding)))
}

/// Milliseconds as people read them: at most the two greatest units.
pub(crate) fn age(millis: u64) -> String {
    let whole = if millis >= 1_000 { millis / 1_000 * 1_000 } else { millis };
    let text = humantime::format_duration(Duration::from_millis(whole)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A duration in whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_others_orders_a_terminal() {
        assert_eq!(Plain("a\u{1b}[2Jb\nc\u{9b}d").to_string(), "a\\u{1b}[2Jb\\nc\\u{9b}d");
        assert_eq!(Plain("größer\t").to_string(), "größer\\t");
        assert_eq!(age(90_061_000), "1day 1h");
        assert_eq!(age(12), "12ms");
    }
}

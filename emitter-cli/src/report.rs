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
    /// Something was begun that goes on without this program, which cannot see how far it is.
    GoesOn(String),
    /// The report could not be written, and somebody would have read it.
    Output(io::Error),
}

impl Failure {
    pub(crate) fn said(words: impl Into<String>) -> Self {
        Self::Said(words.into())
    }

    /// How the command ended.
    pub(crate) const fn verdict(&self) -> Verdict {
        match self {
            Self::GoesOn(_) => Verdict::Look,
            Self::Said(_) | Self::Output(_) => Verdict::NotDone,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // An error of a database may have lines of its own.
            Self::Said(words) | Self::GoesOn(words) => write!(f, "{}", Plain(words.trim_end())),
            Self::Output(error) => write!(f, "the report cannot be written: {error}"),
        }
    }
}

/// The same in JSON, in place of a report.
#[derive(Serialize)]
pub(crate) struct NotDone {
    /// Without secrets.
    pub(crate) error: String,
}

impl fmt::Display for NotDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.error)
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
        self.more(report).map(drop)
    }

    /// The same with one of many reports; `false` where nobody reads any more.
    pub(crate) fn more<R: Serialize + fmt::Display>(self, report: &R) -> Result<bool, Failure> {
        let text = if self.json {
            let json = json(report);
            json.map_err(|error| Failure::said(format!("the report cannot be written: {error}")))? + "\n"
        } else {
            report.to_string()
        };
        self.write(text.as_bytes())
    }

    /// Writes bytes as they are; `false` where nobody reads any more. Whoever has read enough changes nothing about how the
    /// command ends.
    pub(crate) fn write(self, bytes: &[u8]) -> Result<bool, Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(Failure::Output(error)),
        }
    }
}

/// JSON that can be shown on a terminal: what orders it is escaped, also what JSON itself allows.
fn json(report: &impl Serialize) -> serde_json::Result<String> {
    let mut text = Vec::new();
    report.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Escaping))?;
    // It writes UTF-8.
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// How that is written.
struct Escaping;

impl serde_json::ser::Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        for part in fragment.split_inclusive(is_order) {
            match part.char_indices().next_back().filter(|(_, last)| is_order(*last)) {
                Some((place, last)) => write!(out, "{}\\u{:04x}", &part[..place], u32::from(last))?,
                None => out.write_all(part.as_bytes())?,
            }
        }
        Ok(())
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

/// Whether a terminal takes it for an order: a control character, or one that changes in which direction it writes, by which
/// a text looks like another one.
pub(crate) fn is_order(letter: char) -> bool {
    let turns = matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    letter.is_control() || turns
}

/// A text of others, on one line and without what a terminal would take for orders.
pub(crate) struct Plain<'a>(pub(crate) &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.split_inclusive(is_order) {
            match part.char_indices().next_back().filter(|(_, last)| is_order(*last)) {
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
        assert_eq!(Plain("a\u{202e}b\u{2066}").to_string(), "a\\u{202e}b\\u{2066}");
        let texts = ["größer\n", "\u{1b}[2J", "\u{7f}a\u{9b}2J", "x\u{202e}y\u{2069}\u{61c}"];
        let written = json(&texts).unwrap();
        assert!(
            !written.contains(is_order) && written.contains(r#""\u007fa\u009b2J","x\u202ey"#),
            "{written}"
        );
        assert_eq!(serde_json::from_str::<Vec<String>>(&written).unwrap(), texts);
        assert_eq!(age(90_061_000), "1day 1h");
        assert_eq!(age(12), "12ms");
    }
}

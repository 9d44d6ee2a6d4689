//! Dead letters, for whoever looks after them.

use std::fmt;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use emitter_diesel::EventId;
use emitter_diesel::dead_letter::Reason;
use emitter_diesel::dead_letters::{DeadLetterBook, Facet, KeptLetter, Page, Selection};
use emitter_diesel::event::Timestamp;
use emitter_diesel::outbox::{GivenUp, GivenUpSelection};
use emitter_diesel::requests::Work;
use serde::Serialize;

use super::discard::{self, Discarded};
use super::requests::Asking;
use crate::connection::Place;
use crate::report::{self, Failure, Out, Plain, Verdict};

/// What is done with them.
#[derive(Subcommand)]
pub(crate) enum Dlq {
    /// Lists them, without their events, and says how many events the outbox gave up, which are no letters
    List(List),
    /// Counts them, and the events that the outbox gave up, which are no letters; exit code 1 where there are more letters than --most
    Count(Count),
    /// Shows one, with its event: that is users' data
    Show(Show),
    /// Writes another event in place of a letter's
    Edit(Edit),
    /// Has a running node try them again
    ///
    /// A node of the service on whose nodes they died, which needs an `Attendant` in these tables. What a listener did not
    /// handle goes to that listener, in order; a letter that is done with is deleted, and one that fails again stays. To end this command
    /// ends nothing else: see `emitter requests`.
    Redrive(Redrive),
    /// Deletes them, after asking; but those that a redrive has at this moment
    Discard(Discard),
}

/// Which of them: those for which everything holds that is said.
#[derive(Args)]
pub(crate) struct Which {
    /// Those of this event
    #[arg(long, value_name = "EVENT_ID")]
    event: Option<EventId>,

    /// Why they are dead letters
    #[arg(long)]
    reason: Option<Why>,

    /// The listener that did not handle them
    #[arg(long)]
    listener: Option<String>,

    /// The model, of what listeners did not handle
    #[arg(long)]
    model: Option<String>,

    /// The topic, in which * stands for anything
    #[arg(long)]
    topic: Option<String>,

    /// The service of the node on which they died
    #[arg(long)]
    service: Option<String>,

    /// The name of that node
    #[arg(long)]
    node: Option<String>,

    /// Kept since then: a time such as 2026-11-21T00:42:25.735Z, or how long ago, such as 24h
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,

    /// Kept before then
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
}

#[derive(Args)]
pub(crate) struct List {
    #[command(flatten)]
    which: Which,

    /// Those behind this one, in the order of the list
    #[arg(long, value_name = "ID")]
    after: Option<i64>,

    /// How many at most, 1 to 1000
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,

    /// The newest first
    #[arg(long)]
    newest: bool,
}

#[derive(Args)]
pub(crate) struct Count {
    #[command(flatten)]
    which: Which,

    /// Of each kind how many, the most frequent first
    #[arg(long)]
    by: Option<By>,

    /// As many are nothing to look after
    #[arg(long, value_name = "LETTERS", default_value_t = 0)]
    most: u64,
}

#[derive(Args)]
pub(crate) struct Show {
    id: i64,

    /// The event alone, byte for byte; on a terminal only where it is nothing but text
    #[arg(long, conflicts_with = "json")]
    payload: bool,
}

#[derive(Args)]
pub(crate) struct Edit {
    id: i64,

    /// The file with the event, `-` for what is piped in: `emitter dlq show ID --payload` writes one
    #[arg(long, value_name = "FILE")]
    payload: PathBuf,
}

#[derive(Args)]
pub(crate) struct Redrive {
    /// These, by their numbers
    #[arg(value_name = "ID")]
    ids: Vec<i64>,

    #[command(flatten)]
    which: Which,

    /// All of the service
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    asking: Asking,
}

#[derive(Args)]
pub(crate) struct Discard {
    /// These, by their numbers
    #[arg(value_name = "ID")]
    ids: Vec<i64>,

    #[command(flatten)]
    which: Which,

    /// All of them
    #[arg(long)]
    all: bool,

    /// Does not ask
    #[arg(long)]
    yes: bool,
}

/// Why a letter is one.
#[derive(Clone, Copy, ValueEnum)]
enum Why {
    /// It could not be read
    Undecodable,
    /// A listener did not handle it
    Unhandled,
    /// It could not be published
    Unpublished,
}

/// What letters are counted by.
#[derive(Clone, Copy, ValueEnum)]
enum By {
    Reason,
    Topic,
    Model,
    Listener,
    Node,
}

/// A moment, as a time or as how long ago it was.
pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Selection::last(ago).since.ok_or_else(|| "no such time".to_owned());
    }
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| "a time is written 2026-11-21T00:42:25.735Z, or as how long ago it was: 24h".to_owned())
}

impl Which {
    fn selection(&self) -> Selection {
        let Self { event, reason, listener, model, topic, service, node, since, until } = self;
        let reason = reason.map(|why| match why {
            Why::Undecodable => Reason::Undecodable,
            Why::Unhandled => Reason::Unhandled,
            Why::Unpublished => Reason::Unpublished,
        });
        Selection {
            ids: None,
            event: *event,
            reason,
            topic: topic.clone(),
            model: model.clone(),
            listener: listener.clone(),
            service: service.clone(),
            node: node.clone(),
            since: *since,
            until: *until,
            up_to: None,
        }
    }
}

impl Dlq {
    pub(super) fn run(self, place: &Place, out: Out) -> Result<Verdict, Failure> {
        let tables = place.tables()?;
        let book = DeadLetterBook::open(&tables)?;
        let given_up = || {
            let counts = GivenUp::open(&tables, "")?.count(&GivenUpSelection::default())?;
            Ok::<_, Failure>(counts.into_iter().map(|(_, events)| events).sum())
        };
        match self {
            Self::List(List { which, after, limit, newest }) => {
                let page = Page { after, limit: limit.into(), newest_first: newest };
                let letters = book.list(&which.selection(), page)?;
                let letters = letters.iter().map(Letter::of).collect();
                out.print(&Letters { letters, given_up: given_up()? })?;
                Ok(Verdict::Well)
            }
            Self::Count(count) => count.run(&book, given_up()?, out),
            Self::Show(Show { id, payload }) => show(&book, id, payload, out),
            Self::Edit(Edit { id, payload }) => {
                book.edit(id, &read(&payload)?)?;
                out.print(&Edited { edited: id })?;
                Ok(Verdict::Well)
            }
            Self::Redrive(redrive) => redrive.run(place, &book, out),
            Self::Discard(discard) => discard.run(&book, out),
        }
    }
}

/// A list.
#[derive(Serialize)]
struct Letters {
    letters: Vec<Letter>,
    given_up: u64,
}

/// What is no dead letter, and yet for a person to look after.
struct Beside(u64);

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            given_up => {
                writeln!(f, "{given_up:>8}  in the whole outbox, given up: `emitter outbox given-up list`")
            }
        }
    }
}

/// A letter without its event.
#[derive(Serialize)]
struct Letter {
    id: i64,
    created_at: Timestamp,
    reason: Option<&'static str>,
    failure_reason: String,
    original_topic: String,
    listener: Option<String>,
    model: Option<String>,
    key: Option<String>,
    event: Option<String>,
    attempts: u32,
    redrives: u32,
    service: String,
    node: String,
    claimed: bool,
    bytes: u64,
}

impl Letter {
    fn of(letter: &KeptLetter) -> Self {
        Self {
            id: letter.id,
            created_at: letter.created_at,
            reason: letter.reason.map(Reason::as_str),
            failure_reason: letter.failure_reason.clone(),
            original_topic: letter.original_topic.clone(),
            listener: letter.listener.clone(),
            model: letter.model.clone(),
            key: letter.key.clone(),
            event: letter.event.map(|event| event.to_string()),
            attempts: letter.attempts,
            redrives: letter.redrives,
            service: letter.service.clone(),
            node: letter.node.clone(),
            claimed: letter.is_claimed,
            bytes: letter.bytes,
        }
    }
}

impl fmt::Display for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.letters.is_empty() {
            writeln!(f, "There are no such dead letters.")?;
        }
        for letter in &self.letters {
            let Letter { id, created_at, reason, original_topic, attempts, failure_reason, .. } = letter;
            let (reason, listener) = (reason.unwrap_or("-"), report::or_dash(letter.listener.as_deref()));
            let (topic, why) = (Plain(original_topic), Plain(failure_reason));
            writeln!(f, "{id}  {created_at}  {reason}  {topic}  {listener}  {attempts} attempts  {why}")?;
        }
        Beside(self.given_up).fmt(f)
    }
}

/// How many there are.
#[derive(Serialize)]
struct Counted {
    total: u64,
    by: Option<Vec<Kind>>,
    given_up: u64,
    findings: Vec<String>,
}

#[derive(Serialize)]
struct Kind {
    name: String,
    letters: u64,
}

impl Count {
    fn run(&self, book: &DeadLetterBook, given_up: u64, out: Out) -> Result<Verdict, Failure> {
        let selection = self.which.selection();
        let facet = self.by.map(|by| match by {
            By::Reason => Facet::Reason,
            By::Topic => Facet::Topic,
            By::Model => Facet::Model,
            By::Listener => Facet::Listener,
            By::Node => Facet::Node,
        });
        let total = book.count(&selection)?;
        let by = facet.map(|facet| book.count_by(&selection, facet)).transpose()?;
        let kinds = |kinds: Vec<_>| kinds.into_iter().map(|(name, letters)| Kind { name, letters }).collect();
        let finding = format!("{total} dead letters: `emitter dlq list` says why");
        let findings: Vec<String> = (total > self.most).then_some(finding).into_iter().collect();
        let report = Counted { total, by: by.map(kinds), given_up, findings };
        out.print(&report)?;
        Ok(Verdict::of(&report.findings))
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Kind { name, letters } in self.by.iter().flatten() {
            writeln!(f, "{letters:>8}  {}", report::or_dash(Some(&**name).filter(|name| !name.is_empty())))?;
        }
        writeln!(f, "{:>8}  in all", self.total)?;
        Beside(self.given_up).fmt(f)
    }
}

/// A letter with its event.
#[derive(Serialize)]
struct Whole {
    #[serde(flatten)]
    letter: Letter,
    /// The event as a text; `None` where it was too large to be kept.
    payload: Option<String>,
    /// What is no text is written as hexadecimal digits.
    payload_encoding: Option<&'static str>,
    properties: Vec<(String, String)>,
}

/// Whether a terminal shows it, and does nothing else.
pub(super) fn is_harmless(bytes: &[u8]) -> bool {
    let orders = |letter: char| report::is_order(letter) && !matches!(letter, '\n' | '\t');
    std::str::from_utf8(bytes).is_ok_and(|text| !text.contains(orders))
}

fn show(book: &DeadLetterBook, id: i64, payload: bool, out: Out) -> Result<Verdict, Failure> {
    let letter = book.show(id)?;
    if payload {
        let bytes = letter
            .payload
            .ok_or_else(|| format!("the event of the dead letter {id} was too large to be kept"))?;
        if std::io::stdout().is_terminal() && !is_harmless(&bytes) {
            return Err(Failure::said(format!(
                "the event holds what a terminal takes for orders: write it into a file (`> FILE`), or see it with \
                 `emitter dlq show {id}`"
            )));
        }
        out.write(&bytes)?;
        return Ok(Verdict::Well);
    }
    let (text, encoding) = match letter.payload.as_deref().map(std::str::from_utf8) {
        None => (None, None),
        Some(Ok(text)) => (Some(text.to_owned()), None),
        Some(Err(_)) => {
            let bytes = letter.payload.iter().flatten();
            (Some(bytes.map(|byte| format!("{byte:02x}")).collect()), Some("hex"))
        }
    };
    let properties =
        letter.properties.user.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    out.print(&Whole { letter: Letter::of(&letter), payload: text, payload_encoding: encoding, properties })?;
    Ok(Verdict::Well)
}

impl fmt::Display for Whole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Letter { id, created_at, attempts, redrives, bytes, .. } = &self.letter;
        let dash = |text: &Option<String>| report::or_dash(text.as_deref()).to_string();
        writeln!(
            f,
            "letter    {id}, kept {created_at}{}",
            if self.letter.claimed { ", a redrive has it" } else { "" }
        )?;
        writeln!(
            f,
            "reason    {}: {}",
            self.letter.reason.unwrap_or("-"),
            Plain(&self.letter.failure_reason)
        )?;
        writeln!(f, "topic     {}", Plain(&self.letter.original_topic))?;
        writeln!(f, "listener  {}", dash(&self.letter.listener))?;
        writeln!(f, "model     {}, key {}", dash(&self.letter.model), dash(&self.letter.key))?;
        writeln!(f, "event     {}", dash(&self.letter.event))?;
        writeln!(f, "attempts  {attempts}, redrives {redrives}")?;
        writeln!(f, "node      {}/{}", Plain(&self.letter.service), Plain(&self.letter.node))?;
        for (name, value) in &self.properties {
            writeln!(f, "property  {} = {}", Plain(name), Plain(value))?;
        }
        let payload = self.payload.as_deref().unwrap_or("too large to be kept");
        writeln!(
            f,
            "payload   {bytes} bytes{}\n{}",
            self.payload_encoding.map_or("", |_| ", as hexadecimal digits"),
            Plain(payload)
        )
    }
}

/// The largest event that a letter keeps, and one byte, so that a larger one is refused and not cut.
const MOST: u64 = (1 << 20) + 1;

fn read(path: &std::path::Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(MOST).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut bytes))
    };
    read.map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(bytes)
}

/// Which one was changed.
#[derive(Serialize)]
struct Edited {
    edited: i64,
}

impl fmt::Display for Edited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "The dead letter {} has another event now; it is looked into when it is redriven.",
            self.edited
        )
    }
}

impl Redrive {
    fn run(self, place: &Place, book: &DeadLetterBook, out: Out) -> Result<Verdict, Failure> {
        let mut letters = self.which.selection();
        let Some(service) = letters.service.clone() else {
            return Err(Failure::said("whose? Give `--service`: one of its nodes tries them again"));
        };
        letters.ids = (!self.ids.is_empty()).then_some(self.ids);
        let service_alone = Selection { service: Some(service.clone()), ..Selection::default() };
        if letters == service_alone && !self.all {
            return Err(Failure::said("which? Give numbers, what they have in common, or `--all`"));
        }
        let meant = || Ok(book.count(&letters)?);
        let per_second = self.asking.rate.unwrap_or_default();
        let work = Work::Redrive { letters: letters.clone(), per_second };
        self.asking.ask(place, &service, &work, meant, out)
    }
}

impl Discard {
    fn run(self, book: &DeadLetterBook, out: Out) -> Result<Verdict, Failure> {
        let mut selection = self.which.selection();
        selection.ids = (!self.ids.is_empty()).then_some(self.ids);
        if selection == Selection::default() && !self.all {
            return Err(Failure::said("which? Give numbers, what they have in common, or `--all`"));
        }
        let discarded = if self.yes {
            book.discard(&selection)?
        } else {
            let list = |after| {
                let letters =
                    book.list(&selection, Page { after, limit: discard::PAGE, newest_first: false })?;
                Ok(letters.iter().map(|letter| letter.id).collect())
            };
            let of = |ids| Selection { ids: Some(ids), ..selection.clone() };
            discard::agreed("dead letters", list, |ids| Ok(book.discard(&of(ids))?))?
        };
        out.print(&Discarded { discarded })?;
        Ok(Verdict::Well)
    }
}

//! The commands, each in a file of its own.

use clap::Subcommand;

use crate::connection::Place;
use crate::report::{Failure, Out, Verdict};

mod completions;
mod dlq;
mod doctor;
mod given_up;
mod lag;
mod migrate;
mod outbox;
mod replay;
mod requests;
mod tail;
mod why;

/// What can be done.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Makes the tables, or brings them up to date
    Migrate(migrate::Migrate),
    /// Shows, stops and drains the outbox, and what it has given up
    #[command(subcommand)]
    Outbox(outbox::Outbox),
    /// Looks through, mends, redrives and discards dead letters
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    /// Has a running node hand events of the mirror to its listeners once more
    ///
    /// The node needs an `Attendant` in these tables. It hands on what was written down by now, and notes how far it is: where it dies,
    /// another one of the service goes on behind that. To end this command ends nothing else: see `emitter requests`.
    Replay(replay::Replay),
    /// What running nodes were asked to do, and how far they are
    #[command(subcommand)]
    Requests(requests::Requests),
    /// How far outbox, mirror and the nodes that remember it are behind
    Lag(lag::Lag),
    /// What became of an event: what each listener did, or why it did not
    Why(why::Why),
    /// Shows events as they pass on the bus, until Ctrl-C
    ///
    /// It listens as a client of its own, and takes nothing from anybody. The broker forgets that client a second after it ends;
    /// over MQTT 3.1.1, by which that cannot be asked for, when the broker's own settings say so.
    Tail(tail::Tail),
    /// Looks for what is set up wrongly, and says what to do about it
    ///
    /// The database: whether it is there, its settings, its clock, the tables. The outbox: whether it rests, or nobody relays it.
    /// The broker: whether it is there, and lets a message to oneself through, also a large one; that goes over
    /// `{prefix}/_canary/…`, where nodes try the same. Exit code 1: works, but see there; 2: does not work.
    Doctor(doctor::Doctor),
    /// Prints completions for a shell
    Completions(completions::Completions),
}

impl Command {
    pub(crate) fn run(self, place: &mut Place, out: Out) -> Result<Verdict, Failure> {
        // A shell asks whatever the profiles are like.
        if !matches!(self, Self::Completions(_)) {
            place.complete()?;
        }
        match self {
            Self::Migrate(migrate) => migrate.run(place, out),
            Self::Outbox(outbox) => outbox.run(place, out),
            Self::Dlq(dlq) => dlq.run(place, out),
            Self::Replay(replay) => replay.run(place, out),
            Self::Requests(requests) => requests.run(place, out),
            Self::Lag(lag) => lag.run(place, out),
            Self::Why(why) => why.run(place, out),
            Self::Tail(tail) => tail.run(place, out),
            Self::Doctor(doctor) => doctor.run(place, out),
            Self::Completions(completions) => completions.run(out),
        }
    }
}

//! The commands, each in a file of its own.

use clap::Subcommand;

use crate::connection::Place;
use crate::report::{Failure, Out, Verdict};

mod bench;
mod completions;
mod discard;
mod dlq;
mod doctor;
mod generate;
mod given_up;
mod lag;
mod listeners;
mod migrate;
mod outbox;
mod replay;
mod requests;
mod schema;
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
    ///
    /// What is written down of it, in the tables. With a broker, the listeners, too, that nodes say they have and of which nothing
    /// is: they handled it at once, do not hear such events, or a filter held it back.
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
    /// Shows which nodes there are, and which listeners each has, as they say on the bus
    ///
    /// Below `{prefix}/_nodes`, where the broker keeps it. A node without `announce` says nothing.
    Listeners(listeners::Listeners),
    /// Measures how many messages a second the broker takes and delivers, and how long they take
    ///
    /// To itself, over `{prefix}/_canary/…`, where nodes may publish and hear. On a broker that is at work it takes from that.
    Bench(bench::Bench),
    /// Describes the events of a program for other languages: AsyncAPI, JSON Schema, TypeScript
    ///
    /// Of the program's manifest, which is a file beside it. A test of the program writes that with EMITTER_MANIFEST=write:
    /// `Manifest::of_crates(&["shop"]).assert("emitter.json")`. Or the program prints it: `println!("{}", Manifest::linked())`. Topics begin
    /// as `--prefix` says.
    Schema(schema::Schema),
    /// Writes models with `Emits` for the tables of a Diesel schema, to begin with
    ///
    /// To stdout. Columns whose names say that they are secret are left out of events. What is to be looked after is told on stderr,
    /// with exit code 1: a type of SQL of which nobody knows which one of Rust it is, what was left out, and models whose names would
    /// have been others' already. The models need the crates of their types (`chrono`, `uuid`, `bigdecimal`, `serde_json`), and Diesel the features of the same names (`numeric` for `bigdecimal`).
    Generate(generate::Generate),
    /// Prints completions for a shell
    Completions(completions::Completions),
}

impl Command {
    pub(crate) fn run(self, place: &mut Place, out: Out) -> Result<Verdict, Failure> {
        // These ask whatever the profiles are like.
        if !matches!(self, Self::Completions(_) | Self::Generate(_)) {
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
            Self::Listeners(listeners) => listeners.run(place, out),
            Self::Bench(bench) => bench.run(place, out),
            Self::Generate(generate) => generate.run(out),
            Self::Schema(schema) => schema.run(place, out),
            Self::Completions(completions) => completions.run(out),
        }
    }
}

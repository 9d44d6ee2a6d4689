//! What nodes say to each other about events that are missing.
//!
//! Who misses one says so on `{prefix}/_replay/ask`. Of the nodes that relay an outbox, the one that owns the
//! lane answers on `{prefix}/_replay/to/{service}.{node}`; of buffered events the node that published them. Unasked,
//! each says on `{prefix}/_replay/heads` now and then how far it is. All three are JSON objects, signed where events are, and go at QoS 0: they pass what waits to be acknowledged,
//! and whoever asks in vain asks again.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{After, Head, Stream, Told};
use crate::envelope::{self, DecodeError, Encoded, WireLimits};
use crate::properties::Properties;
use crate::record::{Number, Parcel};

/// How many streams one message is about at most.
pub const MOST_STREAMS: usize = 500;

/// How many events one answer has at most.
pub const MOST_EVENTS: usize = 1_000;

/// How many bytes the events of an answer have at most, so that it is no larger than other messages; a single
/// larger one goes alone.
pub const MOST_BYTES: usize = 64 * 1024;

/// The last moment of the year 9999, which every database knows.
const LAST_MILLIS: i64 = 253_402_300_799_999;

/// What an answer may be: as large as the transport lets it be, for its events are looked at one by one, and one that is too much
/// here must not keep back those behind it. What is nested in them is not looked into.
const ANSWERS: WireLimits = WireLimits { max_bytes: usize::MAX, max_depth: usize::MAX };

/// What a question or a list of heads may be: one of [`MOST_STREAMS`] is smaller.
const WORDS: WireLimits = WireLimits { max_bytes: 512 * 1024, max_depth: 4 };

/// Somebody misses events.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ask {
    /// Who: `{service}.{node}`.
    pub from: String,
    /// Which.
    pub streams: Vec<(Stream, After)>,
    /// It wants to know how far all are.
    pub heads: bool,
}

/// What an outbox tells of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The stream.
    pub stream: Stream,
    /// Which owner of the lane answers.
    pub epoch: u64,
    /// Where that owner began.
    pub base: u64,
    /// It tells everything after this number,
    pub after: u64,
    /// up to this one.
    pub covered: u64,
    /// The last number that was given.
    pub last: u64,
    /// So many of those are not kept any more.
    pub lost: u64,
    /// What is left, in order.
    pub events: Vec<ToldEvent>,
}

/// An event of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldEvent {
    /// Its number.
    pub sequence: u64,
    /// The topic on which it was published.
    pub topic: String,
    /// Its bytes, which are JSON.
    pub payload: Bytes,
    /// What travelled beside them.
    pub properties: Properties,
}

#[derive(Serialize, Deserialize)]
struct StreamForm<'a> {
    #[serde(borrow)]
    outbox: Cow<'a, str>,
    lane: u32,
    #[serde(borrow)]
    model: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct AskForm<'a> {
    #[serde(borrow)]
    from: Cow<'a, str>,
    #[serde(default, borrow)]
    streams: Vec<AskedForm<'a>>,
    #[serde(default)]
    heads: bool,
}

#[derive(Serialize, Deserialize)]
struct AskedForm<'a> {
    #[serde(borrow)]
    stream: StreamForm<'a>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct HeadsForm<'a> {
    #[serde(borrow)]
    heads: Vec<HeadForm<'a>>,
}

#[derive(Serialize, Deserialize)]
struct HeadForm<'a> {
    #[serde(borrow)]
    stream: StreamForm<'a>,
    epoch: u64,
    base: u64,
    last: u64,
}

#[derive(Serialize, Deserialize)]
struct AnswerForm<'a> {
    #[serde(borrow)]
    stream: StreamForm<'a>,
    epoch: u64,
    base: u64,
    after: u64,
    covered: u64,
    last: u64,
    lost: u64,
    #[serde(borrow)]
    events: Vec<EventForm<'a>>,
}

#[derive(Serialize, Deserialize)]
struct EventForm<'a> {
    sequence: u64,
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    properties: Vec<(String, String)>,
}

impl<'a> StreamForm<'a> {
    fn of(stream: &'a Stream) -> Self {
        Self { outbox: (&*stream.outbox).into(), lane: stream.lane, model: (&*stream.model).into() }
    }

    /// The stream, if one can be called so.
    fn read(&self) -> Option<Stream> {
        let Self { outbox, lane, model } = self;
        let is_life = *lane == 0 && super::is_life(outbox);
        let is_of_outbox = Number::names_outbox(outbox) && Number::is_lane(*lane);
        let good = (is_life || is_of_outbox) && (1..=128).contains(&model.len());
        let model = model.to_ascii_lowercase().into();
        good.then(|| Stream { outbox: outbox.as_ref().into(), lane: *lane, model })
    }
}

/// Whether somebody who counts so may count in a stream: a life has no owners.
fn may_count(stream: &Stream, epoch: u64, base: u64) -> bool {
    !stream.is_of_life() || (epoch, base) == (0, 0)
}

/// Databases count no further.
fn counted(numbers: &[u64]) -> bool {
    numbers.iter().all(|number| i64::try_from(*number).is_ok())
}

fn malformed(what: &str) -> DecodeError {
    DecodeError::Malformed(format!("it is no {what}"))
}

fn name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=257).contains(&text.len()) && text.bytes().all(allowed)
}

impl ToldEvent {
    /// An event as it was written down, with its number.
    #[must_use]
    pub fn new(parcel: Parcel, number: &Number) -> Self {
        let Parcel { topic, payload, properties, .. } = parcel;
        let mut encoded = Encoded { payload, properties };
        envelope::add_number(&mut encoded, number);
        let Encoded { payload, properties } = encoded;
        Self { sequence: number.sequence, topic, payload: payload.into(), properties }
    }
}

impl Ask {
    /// Questions of a node, each of a message's size.
    pub(crate) fn of<'a>(
        from: &'a str,
        streams: &'a [(Stream, After)],
        heads: bool,
    ) -> impl Iterator<Item = Vec<u8>> + 'a {
        let nothing: &[(Stream, After)] = &[];
        let chunks = streams.chunks(MOST_STREAMS).chain((heads && streams.is_empty()).then_some(nothing));
        chunks.map(move |streams| {
            let streams = streams.iter().map(|(stream, after)| AskedForm {
                stream: StreamForm::of(stream),
                after: if let After::Sequence(sequence) = after { Some(*sequence) } else { None },
                since: if let After::Time(millis) = after { Some(*millis) } else { None },
            });
            json(&AskForm { from: from.into(), streams: streams.collect(), heads })
        })
    }

    pub(crate) fn read(payload: &[u8]) -> Result<Self, DecodeError> {
        let text = envelope::text(payload, &WORDS)?;
        let form: AskForm<'_> = serde_json::from_str(text).map_err(|_| malformed("question"))?;
        if !name(&form.from) || form.streams.len() > MOST_STREAMS {
            return Err(malformed("question"));
        }
        let streams = form.streams.iter().map(|asked| {
            let after = match (asked.after, asked.since) {
                (Some(sequence), None) => After::Sequence(sequence),
                (None, Some(millis)) => After::Time(millis.clamp(0, LAST_MILLIS)),
                _ => return None,
            };
            Some((asked.stream.read()?, after))
        });
        let streams = streams.collect::<Option<Vec<_>>>().ok_or_else(|| malformed("question"))?;
        Ok(Self { from: form.from.into_owned(), streams, heads: form.heads })
    }
}

/// How far an outbox is, in messages.
pub(crate) fn heads(heads: &[Head]) -> impl Iterator<Item = Vec<u8>> + '_ {
    heads.chunks(MOST_STREAMS).map(|heads| {
        let heads = heads.iter().map(|head| HeadForm {
            stream: StreamForm::of(&head.stream),
            epoch: head.epoch,
            base: head.base,
            last: head.last,
        });
        json(&HeadsForm { heads: heads.collect() })
    })
}

pub(crate) fn read_heads(payload: &[u8]) -> Result<Vec<Head>, DecodeError> {
    let text = envelope::text(payload, &WORDS)?;
    let form: HeadsForm<'_> = serde_json::from_str(text).map_err(|_| malformed("list of heads"))?;
    let heads = form.heads.iter().map(|head| {
        let good = head.base <= head.last && counted(&[head.epoch, head.last]);
        let stream = head.stream.read().filter(|stream| good && may_count(stream, head.epoch, head.base))?;
        Some(Head { stream, epoch: head.epoch, base: head.base, last: head.last })
    });
    heads.collect::<Option<_>>().ok_or_else(|| malformed("list of heads"))
}

impl Answer {
    /// As it is published. Events that are no JSON are left out.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let Self { stream, epoch, base, after, covered, last, lost, events } = self;
        let events = events.iter().filter_map(|event| {
            let ToldEvent { sequence, topic, payload, properties } = event;
            let Properties { content_type, user } = properties;
            let properties =
                user.iter().map(|(name, value)| (name.clone().into_owned(), value.clone())).collect();
            Some(EventForm {
                sequence: *sequence,
                topic: topic.into(),
                payload: serde_json::from_slice(payload).ok()?,
                content_type: content_type.as_ref().map(ToString::to_string),
                properties,
            })
        });
        json(&AnswerForm {
            stream: StreamForm::of(stream),
            epoch: *epoch,
            base: *base,
            after: *after,
            covered: *covered,
            last: *last,
            lost: *lost,
            events: events.collect(),
        })
    }

    /// The same with fewer events, where a message of all of them would be too large: half of them, or none and that the one is
    /// lost. `None` where there are none.
    pub(crate) fn shorter(&self) -> Option<Self> {
        let all = &self.events;
        let covered = all.get((all.len() / 2).saturating_sub(1))?.sequence;
        let events = all.get(..all.len() / 2)?.to_vec();
        let lost = self.lost.saturating_add(u64::from(events.is_empty()));
        Some(Self { stream: self.stream.clone(), covered, lost, events, ..*self })
    }

    pub(crate) fn read(payload: &Bytes) -> Result<Self, DecodeError> {
        let text = envelope::text(payload, &ANSWERS)?;
        let form: AnswerForm<'_> = serde_json::from_str(text).map_err(|_| malformed("answer"))?;
        let good = form.after <= form.covered
            && form.covered <= form.last
            && counted(&[form.epoch, form.base, form.last]);
        let stream = form.stream.read().filter(|stream| good && may_count(stream, form.epoch, form.base));
        let stream = stream.ok_or_else(|| malformed("answer"))?;
        let events = form.events.into_iter().map(|event| {
            let within = event.sequence > form.after && event.sequence <= form.covered;
            let user = event.properties.into_iter().map(|(name, value)| (name.into(), value));
            let properties =
                Properties { content_type: event.content_type.map(Cow::Owned), user: user.collect() };
            let (topic, sequence) = (event.topic.into_owned(), event.sequence);
            let payload = payload.slice_ref(event.payload.get().as_bytes());
            within.then_some(ToldEvent { sequence, topic, payload, properties })
        });
        let events: Vec<ToldEvent> = events.collect::<Option<_>>().ok_or_else(|| malformed("answer"))?;
        if events.len() > MOST_EVENTS || !events.is_sorted_by_key(|event| event.sequence) {
            return Err(malformed("answer"));
        }
        let AnswerForm { epoch, base, after, covered, last, lost, .. } = form;
        Ok(Self { stream, epoch, base, after, covered, last, lost, events })
    }

    pub(crate) fn told(&self) -> Told {
        let Self { epoch, base, after, covered, last, .. } = *self;
        Told { epoch, base, after, covered, last }
    }
}

fn json(form: &impl Serialize) -> Vec<u8> {
    // Texts and numbers, and what is JSON already.
    serde_json::to_vec(form).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::emit::QoS;
    use crate::event::EventId;

    fn any_stream() -> impl Strategy<Value = Stream> {
        let outbox = ("[a-z0-9]{1,32}", 0..=u32::MAX / 2).prop_map(|(name, lane)| (name.into(), lane));
        let life = any::<u128>().prop_map(|life| (super::super::life(Uuid::from_u128(life)), 0));
        let whose = prop_oneof![outbox, life];
        (whose, "[a-z_]{1,20}").prop_map(|((outbox, lane), model)| Stream {
            outbox,
            lane,
            model: model.into(),
        })
    }

    fn after() -> impl Strategy<Value = After> {
        prop_oneof![any::<u64>().prop_map(After::Sequence), (0..LAST_MILLIS).prop_map(After::Time)]
    }

    fn event(sequence: u64, text: &str) -> ToldEvent {
        let payload = serde_json::to_vec(&serde_json::json!({ "text": text })).unwrap();
        let properties = Properties::of_type("application/json").with("a", text);
        let id = EventId::from_uuid(Uuid::nil());
        let parcel =
            Parcel { id, topic: "a/user/create".to_owned(), qos: QoS::AtLeastOnce, payload, properties };
        let number = Number { outbox: "a".into(), lane: 1, epoch: 1, base: 0, sequence, row: None };
        ToldEvent::new(parcel, &number)
    }

    proptest! {
        #[test]
        fn questions_are_read_as_they_were_written(
            streams in prop::collection::vec((any_stream(), after()), 495..505), heads in any::<bool>()
        ) {
            let messages: Vec<Vec<u8>> = Ask::of("shop.a-1_b", &streams, heads).collect();
            let read: Vec<Ask> = messages.iter().map(|message| Ask::read(message).unwrap()).collect();
            prop_assert!(read.iter().all(|ask| ask.from == "shop.a-1_b" && ask.streams.len() <= MOST_STREAMS));
            prop_assert_eq!(read.iter().any(|ask| ask.heads), heads);
            prop_assert_eq!(read.into_iter().flat_map(|ask| ask.streams).collect::<Vec<_>>(), streams);
        }

        #[test]
        fn answers_are_read_as_they_were_written(
            stream in any_stream(), after in 0..u64::MAX / 4, texts in prop::collection::vec("\\PC{0,40}", 0..20),
            (epoch, base, more, lost) in (0..u64::MAX / 2, 0..9_u64, 0..9_u64, any::<u64>())
        ) {
            let events: Vec<ToldEvent> = (after + 1..).zip(&texts).map(|(sequence, text)| event(sequence, text)).collect();
            let covered = after + texts.len() as u64;
            let (epoch, base) = if stream.is_of_life() { (0, 0) } else { (epoch, base) };
            let answer = Answer { stream, epoch, base, after, covered, last: covered + more, lost, events };
            prop_assert_eq!(Answer::read(&answer.to_json().into()).unwrap(), answer);
        }

        #[test]
        fn heads_are_read_as_they_were_written(
            all in prop::collection::vec((any_stream(), 0..u64::MAX / 2, 0..u64::MAX / 2, 0..u64::MAX / 2), 0..20)
        ) {
            let all: Vec<Head> = all.into_iter()
                .map(|(stream, epoch, a, b)| match stream.is_of_life() {
                    true => Head { stream, epoch: 0, base: 0, last: b },
                    false => Head { stream, epoch, base: a.min(b), last: a.max(b) },
                }).collect();
            let read: Vec<Head> = heads(&all).flat_map(|message| read_heads(&message).unwrap()).collect();
            prop_assert_eq!(read, all);
        }

        #[test]
        fn any_bytes_are_a_word_or_none(payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Ask::read(&payload);
            let _ = read_heads(&payload);
            let _ = Answer::read(&payload.into());
        }

        /// Whatever stands where something else should.
        #[test]
        fn values_that_are_none_are_refused(
            field in prop::sample::select(vec!["outbox", "lane", "model", "epoch", "after", "covered", "last", "lost", "events"]),
            value in prop::sample::select(vec!["null", "-1", "1.5", "\"\"", "\"a/b\"", "[]", "{}", "18446744073709551616", "[{}]"])
        ) {
            let answer = Answer {
                stream: Stream { outbox: "a".into(), lane: 1, model: "user".into() },
                epoch: 1, base: 0, after: 1, covered: 2, last: 3, lost: 0, events: vec![event(2, "a")],
            };
            let mut json: serde_json::Value = serde_json::from_slice(&answer.to_json()).unwrap();
            let whole = if matches!(field, "outbox" | "lane" | "model") { &mut json["stream"] } else { &mut json };
            whole[field] = serde_json::from_str(value).unwrap();
            // A model may have any name; an answer may have no events.
            prop_assume!(!(field == "model" && value == "\"a/b\"" || field == "events" && value == "[]"));
            let read = Answer::read(&serde_json::to_vec(&json).unwrap().into());
            prop_assert!(matches!(read, Err(DecodeError::Malformed(_))), "{read:?}");
        }
    }

    /// One that was told of another would keep all from being noted.
    #[test]
    fn a_lane_is_one_that_databases_can_keep() {
        let most = u32::MAX / 2;
        for (lane, is_good) in [(0, true), (most, true), (most + 1, false), (4_000_000_000, false)] {
            let stream = Stream { outbox: "a".into(), lane, model: "user".into() };
            let all = [Head { stream, epoch: 1, base: 0, last: 3 }];
            let read = heads(&all).map(|told| read_heads(&told).is_ok());
            assert_eq!(read.collect::<Vec<_>>(), [is_good], "{lane}");
        }
    }

    #[test]
    fn nobody_counts_on_for_a_life() {
        let stream = || Stream { outbox: super::super::life(Uuid::nil()), lane: 0, model: "user".into() };
        for (epoch, base, is_good) in [(0, 0, true), (1, 0, false), (0, 1, false), (1, 1, false)] {
            let all = [Head { stream: stream(), epoch, base, last: 3 }];
            let read = heads(&all).map(|message| read_heads(&message).is_ok());
            assert_eq!(read.collect::<Vec<_>>(), [is_good], "{epoch} {base}");
            let answer = Answer {
                stream: stream(),
                epoch,
                base,
                after: 1,
                covered: 2,
                last: 3,
                lost: 0,
                events: vec![],
            };
            assert_eq!(Answer::read(&answer.to_json().into()).is_ok(), is_good, "{epoch} {base}");
        }
    }

    /// Each event is looked at by itself: one that is too large, or too deep, hinders no other.
    #[test]
    fn an_answer_is_read_whatever_its_events_are() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let large = serde_json::to_string(&"x".repeat(1_000_000)).unwrap();
        for text in [deep, large] {
            let json = format!(
                r#"{{"stream":{{"outbox":"a","lane":1,"model":"user"}},"epoch":1,"base":0,"after":1,"covered":2,
                    "last":3,"lost":0,"events":[{{"sequence":2,"topic":"a","payload":{text}}}],"more":{text}}}"#
            );
            let answer = Answer::read(&Bytes::from(json)).unwrap();
            assert_eq!((answer.events.len(), answer.events[0].payload.len()), (1, text.len()));
        }
    }

    #[test]
    fn a_shorter_answer_tells_less_or_that_it_cannot() {
        let stream = Stream { outbox: "a".into(), lane: 1, model: "user".into() };
        let events = [3, 5, 8].map(|sequence| event(sequence, "x"));
        let answer = Answer {
            stream,
            epoch: 1,
            base: 0,
            after: 1,
            covered: 9,
            last: 9,
            lost: 1,
            events: events.to_vec(),
        };
        let one = answer.shorter().unwrap();
        assert_eq!((one.covered, one.lost, &*one.events), (3, 1, &events[..1]));
        let none = one.shorter().unwrap();
        assert_eq!((none.covered, none.lost, none.last, none.events.len()), (3, 2, 9, 0));
        assert_eq!(none.shorter(), None);
    }

    #[test]
    fn an_answer_tells_only_what_it_covers() {
        let stream = || Stream { outbox: "a".into(), lane: 1, model: "user".into() };
        let answer = |after, covered, last, events: &[u64]| {
            let events = events.iter().map(|sequence| event(*sequence, "x")).collect();
            let answer =
                Answer { stream: stream(), epoch: 1, base: 0, after, covered, last, lost: 0, events };
            Answer::read(&answer.to_json().into())
        };
        assert!(answer(1, 4, 4, &[2, 4]).is_ok());
        for (after, covered, last, events) in [
            (1, 4, 4, &[1][..]),
            (1, 4, 4, &[5]),
            (u64::MAX, u64::MAX, u64::MAX, &[1]),
            (1, 4, 4, &[4, 2]),
            (4, 1, 4, &[]),
            (1, 5, 4, &[]),
        ] {
            assert!(answer(after, covered, last, events).is_err(), "{after} {covered} {last} {events:?}");
        }
        for from in ["", "a/b", "a+", "#", "\u{e4}", &"a".repeat(258)] {
            let ask = serde_json::to_vec(&serde_json::json!({ "from": from })).unwrap();
            assert!(Ask::read(&ask).is_err(), "{from}");
        }
    }
}

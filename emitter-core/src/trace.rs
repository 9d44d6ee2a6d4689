//! Which trace an event belongs to, as W3C Trace Context writes it.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use crate::event::EventId;

/// A place in a trace: the trace's id, the id of the span that caused the event, and flags.
///
/// Text and JSON are those of the header `traceparent` of
/// [W3C Trace Context](https://www.w3.org/TR/trace-context/#traceparent-header), version 00.
///
/// ```
/// use emitter_core::Trace;
///
/// let trace: Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?;
/// assert_eq!(trace.trace_id(), 0x4bf92f3577b34da6a3ce929d0e0e4736);
/// assert!(trace.is_sampled());
/// # Ok::<(), emitter_core::trace::NoTrace>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Trace {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl Trace {
    /// A place in a trace; `None` where one of the ids is 0, which is no id.
    #[must_use]
    pub const fn new(trace_id: u128, span_id: u64, sampled: bool) -> Option<Self> {
        if trace_id == 0 || span_id == 0 {
            return None;
        }
        Some(Self { trace_id, span_id, flags: sampled as u8 })
    }

    /// Whether a text can be a
    /// [`tracestate`](https://www.w3.org/TR/trace-context/#tracestate-header): 1 to 512 printable
    /// characters of ASCII. What vendors write in it is theirs.
    #[must_use]
    pub fn is_state(text: &str) -> bool {
        (1..=512).contains(&text.len()) && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))
    }

    /// The id of the whole trace, never 0.
    #[must_use]
    pub const fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The id of the trace to which an event belongs: its own where there is none.
    pub(crate) fn id_of(trace: Option<Self>, event: EventId) -> Uuid {
        trace.map_or(*event.as_uuid(), |trace| Uuid::from_u128(trace.trace_id))
    }

    /// The id of the span that caused the event, never 0.
    #[must_use]
    pub const fn span_id(&self) -> u64 {
        self.span_id
    }

    /// Whether who began the trace records it.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }
}

/// A place in a trace, and what vendors of tracing hand on beside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Traced {
    pub(crate) trace: Trace,
    pub(crate) state: Option<Box<str>>,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// A text is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
pub struct NoTrace;

impl FromStr for Trace {
    type Err = NoTrace;

    /// Reads version 00, and of later versions what version 00 has.
    fn from_str(text: &str) -> Result<Self, NoTrace> {
        let (version, rest) = text.split_at_checked(2).ok_or(NoTrace)?;
        let later = match version {
            "00" => false,
            version => hex(version, 2).filter(|version| *version != 0xff).map(|_| true).ok_or(NoTrace)?,
        };
        let mut parts = rest.strip_prefix('-').ok_or(NoTrace)?.split('-');
        let mut part = |digits| parts.next().and_then(|part| hex(part, digits)).ok_or(NoTrace);
        let (trace_id, span_id, flags) = (part(32)?, part(16)?, part(2)?);
        if parts.next().is_some() && !later {
            return Err(NoTrace);
        }
        // They have as many digits as the types have bits.
        let span_id = u64::try_from(span_id).map_err(|_| NoTrace)?;
        let flags = u8::try_from(flags).map_err(|_| NoTrace)?;
        Self::new(trace_id, span_id, flags & 1 == 1).ok_or(NoTrace)
    }
}

/// So many lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let all = text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if all { u128::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_read_as_it_was_written(trace_id in 1..=u128::MAX, span_id in 1..=u64::MAX, sampled in any::<bool>()) {
            let trace = Trace::new(trace_id, span_id, sampled).unwrap();
            prop_assert_eq!(trace.to_string().parse(), Ok(trace));
        }

        #[test]
        fn anything_may_be_asked(text in "[0-9a-f-]{0,60}|\\PC{0,20}") {
            if let Ok(trace) = text.parse::<Trace>() {
                prop_assert!(text.starts_with("00") && trace.to_string().len() == 55 || text.len() >= 55);
            }
        }
    }

    #[test]
    fn what_w3c_calls_invalid_is_invalid() {
        let check = |text: &str, valid: bool| assert_eq!(text.parse::<Trace>().is_ok(), valid, "{text}");
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true);
        check("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later", true);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-later", false);
        check("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false);
        check("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false);
        check("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01", false);
        check("", false);
        check("é", false);
    }
}

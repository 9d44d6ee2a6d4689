//! How far a visitor is, as a text that its page keeps.

use std::fmt;
use std::str::FromStr;

use super::ring::Place;

/// A place in the ring of one life of a stream. Of another life, or another node, it means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) life: u64,
    pub(super) place: Place,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.life, self.place)
    }
}

/// A text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoCursor;

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let (life, place) = text.split_once('-').ok_or(NoCursor)?;
        if life.len() != 16 || life.starts_with('+') || place.starts_with('+') {
            return Err(NoCursor);
        }
        let life = u64::from_str_radix(life, 16).map_err(|_| NoCursor)?;
        Ok(Self { life, place: place.parse().map_err(|_| NoCursor)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_gives_back_what_it_was_given() {
        let cursor = Cursor { life: 7, place: u64::MAX };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for wrong in ["", "-", "1-1", "000000000000000g-1", "0000000000000007-", "0000000000000007-+1", "é-1"]
        {
            assert_eq!(wrong.parse::<Cursor>(), Err(NoCursor), "{wrong}");
        }
    }
}

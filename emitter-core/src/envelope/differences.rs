//! The row before an update, told by the values in which it differs from the row after: of a wide row a small part.
//!
//! ```json
//! {"result":{"id":7,"name":"Ada","status":"ACTIVE"},"was":{"status":"NEW"}}
//! ```

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::{RawValue, to_raw_value};

use super::DecodeError;
use super::json::Members;

/// What was in the columns that differ. `None` where the row before could not be told by that: where one of the rows has
/// a name that the other one has not, as of a column that is left out while it is empty, or has one twice.
pub(super) fn narrowed(before: &RawValue, after: &RawValue) -> Option<Box<RawValue>> {
    let [before, after] = [before, after].map(|row| serde_json::from_str::<Members<'_>>(row.get()).ok());
    let (before, after) = (before?.0, after?.0);
    let names = || after.iter().map(|(name, _)| name);
    if !before.iter().map(|(name, _)| name).eq(names())
        || names().collect::<BTreeSet<_>>().len() < after.len()
    {
        return None;
    }
    let pairs = before.into_iter().zip(&after);
    let differing = pairs.filter(|((_, was), (_, is))| was.get() != is.get()).map(|(was, _)| was);
    to_raw_value(&Members(differing.collect())).ok()
}

/// The row before an update, in whichever of the two ways its sender tells of it, if it does.
///
/// # Errors
/// [`DecodeError::Malformed`] where both are told, or what is told of its columns does not fit the row after.
pub(crate) fn row_before<'a>(
    before: Option<&'a RawValue>,
    was: Option<&RawValue>,
    after: &RawValue,
) -> Result<Option<Cow<'a, RawValue>>, DecodeError> {
    match (before, was) {
        (Some(_), Some(_)) => Err(DecodeError::Malformed("it has both `before` and `was`".to_owned())),
        (before, None) => Ok(before.map(Cow::Borrowed)),
        (None, Some(was)) => match widened(was, after) {
            Some(before) => Ok(Some(Cow::Owned(before))),
            None => {
                Err(DecodeError::Malformed("`was` is not some of the row's columns, each once".to_owned()))
            }
        },
    }
}

/// `None` where it is not some of the row's columns, each once.
fn widened(was: &RawValue, after: &RawValue) -> Option<Box<RawValue>> {
    let [was, row] = [was, after].map(|row| serde_json::from_str::<Members<'_>>(row.get()).ok());
    let (Members(was), Members(mut row)) = (was?, row?);
    let told = was.len();
    let mut was: BTreeMap<_, _> = was.into_iter().map(|(name, value)| (name, Some(value))).collect();
    let (is_each_once, mut found) = (was.len() == told, 0);
    for (name, is) in &mut row {
        if let Some(value) = was.get_mut(name) {
            // Of a second one of this name there is none left.
            (*is, found) = (value.take()?, found + 1);
        }
    }
    (is_each_once && found == told).then(|| to_raw_value(&Members(row)).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    fn was(before: &str, after: &str) -> Option<String> {
        narrowed(&raw(before), &raw(after)).map(|was| was.get().to_owned())
    }

    fn before(was: &str, after: &str) -> Option<String> {
        let before = row_before(None, Some(&raw(was)), &raw(after)).ok()?;
        before.map(|before| before.get().to_owned())
    }

    #[test]
    fn a_row_before_is_told_by_what_differs() {
        let (old, new) = (r#"{"id":7,"a":"x","b":[1,2]}"#, r#"{"id":7,"a":"x","b":[1,3]}"#);
        assert_eq!(was(old, new).as_deref(), Some(r#"{"b":[1,2]}"#));
        assert_eq!(before(r#"{"b":[1,2]}"#, new).as_deref(), Some(old));
        assert_eq!(was(new, new).as_deref(), Some("{}"));
        assert_eq!(before("{}", new).as_deref(), Some(new));
        // Each digit is kept.
        let (old, new) = (r#"{"a":0.10000000000000000555,"b":1}"#, r#"{"a":0.10000000000000000555,"b":1.0}"#);
        assert_eq!(before(&was(old, new).unwrap(), new).as_deref(), Some(old));
    }

    #[test]
    fn a_row_that_cannot_be_told_so_is_told_whole() {
        let row = r#"{"id":7,"a":1}"#;
        for other in [r#"{"id":7}"#, r#"{"a":1,"id":7}"#, r#"{"id":7,"b":1}"#, "[7,1]", "null", "7"] {
            assert_eq!((was(row, other), was(other, row)), (None, None), "{other}");
        }
        assert_eq!(was(r#"{"a":1,"a":2}"#, r#"{"a":1,"a":3}"#), None);
    }

    #[test]
    fn what_was_fits_the_row_or_the_event_is_refused() {
        let row = r#"{"id":7,"a":1}"#;
        for wrong in [r#"{"b":1}"#, r#"{"a":1,"a":2}"#, r#"{"A":1}"#, "[1]", "7", r#""a""#, r#"{"\ud800":1}"#]
        {
            assert_eq!(before(wrong, row), None, "{wrong}");
        }
        assert_eq!(before(r#"{"a":1}"#, r#"{"a":1,"a":2}"#), None);
        assert_eq!(before(r#"{"a":1}"#, "[1]"), None);
        let (row, was) = (raw(row), raw("{}"));
        assert!(row_before(Some(&row), Some(&was), &row).is_err());
        assert!(row_before(None, None, &row).unwrap().is_none());
        assert_eq!(row_before(Some(&was), None, &row).unwrap().unwrap().get(), "{}");
    }

    proptest! {
        #[test]
        fn any_row_before_comes_back(
            names in prop::collection::btree_set(".{0,4}", 0..6),
            values in prop::collection::vec((0_u8..3, 0_u8..3, any::<Option<String>>()), 6),
        ) {
            let row = |before: bool| {
                let members = names.iter().zip(&values).map(|(name, (was, is, text))| {
                    let value = serde_json::json!([if before { was } else { is }, text]);
                    (name.clone(), value)
                });
                Value::Object(members.collect())
            };
            let (old, new) = (row(true).to_string(), row(false).to_string());
            let was = was(&old, &new).unwrap();
            prop_assert_eq!(before(&was, &new), Some(old));
        }

        /// What is taken has the columns of the row, and in them what was or is.
        #[test]
        fn what_is_put_over_a_row_is_some_of_it(
            was in prop::collection::vec(("[abc]", 0_u8..9), 0..4),
            row in prop::collection::vec(("[abc]", 0_u8..9), 0..4),
        ) {
            let text = |members: &[(String, u8)]| {
                let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                format!("{{{}}}", members.join(","))
            };
            let times = |members: &[(String, u8)], wanted: &str| {
                members.iter().filter(|(name, _)| name == wanted).count()
            };
            let fits = was.iter().all(|(name, _)| times(&was, name) == 1 && times(&row, name) == 1);
            let put_over = row.iter().map(|(name, is)| {
                let over = was.iter().find(|(known, _)| known == name);
                (name.clone(), over.map_or(*is, |(_, was)| *was))
            });
            let expected = text(&put_over.collect::<Vec<_>>());
            prop_assert_eq!(before(&text(&was), &text(&row)), fits.then_some(expected));
        }
    }
}

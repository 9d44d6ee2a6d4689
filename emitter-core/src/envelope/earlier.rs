//! The row before an update, told by the values in which it differs from the row after: of a wide row a small part.
//!
//! ```json
//! {"result":{"id":7,"name":"Ada","status":"ACTIVE"},"was":{"status":"NEW"}}
//! ```

use std::borrow::Cow;

use serde_json::value::{RawValue, to_raw_value};

use super::DecodeError;
use super::json::Members;
use crate::columns::Columns;

/// The values before, of the columns that differ. `None` where the row before could not be told by them: where one of
/// the rows has a name that the other one has not, as of a column that is left out while it is empty.
pub(super) fn narrowed(before: &RawValue, after: &RawValue) -> Option<Box<RawValue>> {
    let [before, after] = [before, after].map(|row| serde_json::from_str::<Members<'_>>(row.get()).ok());
    let (before, after) = (before?.0, after?.0);
    let names = before.iter().map(|(name, _)| name);
    if !names.eq(after.iter().map(|(name, _)| name)) {
        return None;
    }
    let is_only = |wanted: &str| after.iter().filter(|(name, _)| name == wanted).count() == 1;
    let pairs = before.into_iter().zip(&after);
    let differing = pairs.filter(|((_, was), (_, is))| was.get() != is.get()).map(|(was, _)| was);
    let differing: Vec<_> = differing.collect();
    let is_told = differing.len() <= Columns::MAX && differing.iter().all(|(name, _)| is_only(name));
    is_told.then(|| to_raw_value(&Members(differing)).ok()).flatten()
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

fn widened(was: &RawValue, after: &RawValue) -> Option<Box<RawValue>> {
    let [was, row] = [was, after].map(|row| serde_json::from_str::<Members<'_>>(row.get()).ok());
    let (Members(was), Members(mut row)) = (was?, row?);
    if was.len() > Columns::MAX {
        return None;
    }
    for (place, (name, value)) in was.iter().enumerate() {
        let mut of_this_name = row.iter_mut().filter(|(known, _)| known == name);
        let is_again = was.iter().take(place).any(|(earlier, _)| earlier == name);
        match (of_this_name.next(), of_this_name.next()) {
            (Some((_, is)), None) if !is_again => *is = value,
            _ => return None,
        }
    }
    to_raw_value(&Members(row)).ok()
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
        let wide = |value: usize| {
            let columns: Vec<String> =
                (0..=Columns::MAX).map(|name| format!("\"c{name}\":{value}")).collect();
            format!("{{{}}}", columns.join(","))
        };
        assert_eq!(was(&wide(1), &wide(2)), None);
        assert_eq!(before(&wide(1), &wide(2)), None);
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

        #[test]
        fn any_two_texts_are_a_row_or_refused(was in ".*", after in ".*") {
            if let (Ok(was), Ok(after)) = (RawValue::from_string(was), RawValue::from_string(after)) {
                let _ = row_before(None, Some(&was), &after);
            }
        }
    }
}

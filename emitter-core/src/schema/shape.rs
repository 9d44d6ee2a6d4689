//! What a value of a type of Rust's looks like in JSON, by the type's name.

/// A value in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    Boolean,
    /// Within these bounds, where they are known and not beyond what JSON's readers tell apart.
    Integer(Option<(i64, i64)>),
    /// Also `null`, for what is no number.
    Number,
    Text(Text),
    Nullable(Box<Shape>),
    Array(Box<Shape>),
    /// An array of so many, each of a shape of its own.
    Tuple(Vec<Shape>),
    Map(Box<Shape>),
    /// By the name of its type.
    Any(String),
}

/// What is said of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Text {
    Plain,
    /// A format of JSON Schema's.
    Of(&'static str),
    /// In words.
    As(&'static str),
    Redacted,
    Hashed,
}

/// How deep a type is read.
const DEEPEST: usize = 32;

impl Shape {
    /// That of the type with this name, such as `Option<Vec<String>>`.
    pub(super) fn of(type_name: &str) -> Self {
        Self::read(type_name.trim(), 0)
    }

    fn read(name: &str, depth: usize) -> Self {
        let any = || Self::Any(name.to_owned());
        if depth > DEEPEST {
            return any();
        }
        let inner = |name: &str| Box::new(Self::read(name.trim(), depth + 1));
        if let Some(list) = within(name, '[', ']') {
            // Of `[T; N]` as of `[T]`.
            return Self::Array(inner(parts(list, ';').first().copied().unwrap_or(list)));
        }
        if let Some(list) = within(name, '(', ')') {
            let each = parts(list, ',').into_iter().map(str::trim).filter(|part| !part.is_empty());
            return Self::Tuple(each.map(|part| *inner(part)).collect());
        }
        let (path, arguments) = match name.split_once('<') {
            Some((path, rest)) => match rest.strip_suffix('>') {
                Some(arguments) => (path, parts(arguments, ',')),
                None => return any(),
            },
            None => (name, Vec::new()),
        };
        let last = path.rsplit("::").next().unwrap_or(path).trim();
        let types: Vec<&str> =
            arguments.into_iter().map(str::trim).filter(|argument| !argument.starts_with('\'')).collect();
        match (last, &types[..]) {
            ("bool", []) => Self::Boolean,
            ("i8", []) => Self::Integer(Some((i8::MIN.into(), i8::MAX.into()))),
            ("i16", []) => Self::Integer(Some((i16::MIN.into(), i16::MAX.into()))),
            ("i32", []) => Self::Integer(Some((i32::MIN.into(), i32::MAX.into()))),
            ("u8", []) => Self::Integer(Some((0, u8::MAX.into()))),
            ("u16", []) => Self::Integer(Some((0, u16::MAX.into()))),
            ("u32", []) => Self::Integer(Some((0, u32::MAX.into()))),
            ("i64" | "u64" | "i128" | "u128" | "isize" | "usize", []) => Self::Integer(None),
            ("f32" | "f64", []) => Self::Number,
            ("String" | "str" | "char", []) => Self::Text(Text::Plain),
            ("redacted", []) => Self::Text(Text::Redacted),
            ("hashed", []) => Self::Nullable(Box::new(Self::Text(Text::Hashed))),
            ("Uuid" | "EventId", []) => Self::Text(Text::Of("uuid")),
            ("DateTime", [_]) | ("Timestamp", []) => Self::Text(Text::Of("date-time")),
            ("NaiveDate", []) => Self::Text(Text::Of("date")),
            ("NaiveDateTime", []) => Self::Text(Text::As("a date and time without a zone")),
            ("NaiveTime", []) => Self::Text(Text::As("a time of day")),
            ("BigDecimal" | "Decimal", []) => Self::Text(Text::As("a decimal number")),
            ("Option", [one]) => match *inner(one) {
                nullable @ Self::Nullable(_) => nullable,
                shape => Self::Nullable(Box::new(shape)),
            },
            ("Box" | "Arc" | "Rc" | "Cow", [one]) => *inner(one),
            ("Vec" | "VecDeque" | "BTreeSet", [one]) | ("HashSet", [one, ..]) => Self::Array(inner(one)),
            ("BTreeMap", [_, one]) | ("HashMap", [_, one, ..]) => Self::Map(inner(one)),
            _ => any(),
        }
    }
}

/// What stands between these two at the ends of a name.
fn within(name: &str, open: char, close: char) -> Option<&str> {
    name.strip_prefix(open)?.strip_suffix(close)
}

/// The parts between these, but for those within brackets.
fn parts(list: &str, between: char) -> Vec<&str> {
    let (mut depth, mut begin, mut parts) = (0_usize, 0, Vec::new());
    for (place, letter) in list.char_indices() {
        match letter {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth = depth.saturating_sub(1),
            letter if letter == between && depth == 0 => {
                parts.push(&list[begin..place]);
                begin = place + letter.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&list[begin..]);
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_type_is_known_by_its_name() {
        let text = || Shape::Text(Text::Plain);
        let boxed = |shape| Box::new(shape);
        for (name, shape) in [
            ("String", text()),
            ("std::string::String", text()),
            ("Option<String>", Shape::Nullable(boxed(text()))),
            ("Option<Option<bool>>", Shape::Nullable(boxed(Shape::Boolean))),
            ("Cow<'static, str>", text()),
            ("u8", Shape::Integer(Some((0, 255)))),
            ("i64", Shape::Integer(None)),
            ("chrono::DateTime<Utc>", Shape::Text(Text::Of("date-time"))),
            ("Vec<(i64, String)>", Shape::Array(boxed(Shape::Tuple(vec![Shape::Integer(None), text()])))),
            ("[f64; 3]", Shape::Array(boxed(Shape::Number))),
            (
                "std::collections::BTreeMap<String, Vec<bool>>",
                Shape::Map(boxed(Shape::Array(boxed(Shape::Boolean)))),
            ),
            ("hashed", Shape::Nullable(boxed(Shape::Text(Text::Hashed)))),
            ("serde_json::Value", Shape::Any("serde_json::Value".to_owned())),
            ("Status", Shape::Any("Status".to_owned())),
            ("Vec<String", Shape::Any("Vec<String".to_owned())),
            ("Result<String, ()>", Shape::Any("Result<String, ()>".to_owned())),
        ] {
            assert_eq!(Shape::of(name), shape, "{name}");
        }
    }

    #[test]
    fn a_type_of_any_depth_is_read() {
        let deep = format!("{}u8{}", "Vec<".repeat(10_000), ">".repeat(10_000));
        assert!(matches!(Shape::of(&deep), Shape::Array(_)));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(name in "[A-Z a-z<>()\\[\\];,:'\u{e9}]{0,40}") {
            Shape::of(&name);
        }
    }
}

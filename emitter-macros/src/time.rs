//! Times in attributes: `"500ms"`, `"5s"`, `"2min"`, `"1h"`.

use syn::LitStr;
use syn::meta::ParseNestedMeta;

use crate::errors::value;

/// A time in milliseconds.
#[derive(Clone, Copy)]
pub(crate) struct Millis(pub(crate) u64);

/// A time longer than none.
pub(crate) fn some_time(meta: &ParseNestedMeta<'_>) -> syn::Result<Millis> {
    let text = meta.input.cursor().token_stream().into_iter().nth(1);
    let span = text.map_or_else(|| meta.input.span(), |text| text.span());
    match time(meta)? {
        Millis(0) => Err(syn::Error::new(span, "no time at all is not allowed here")),
        time => Ok(time),
    }
}

/// `"500ms"`, `"5s"`, `"2min"`, `"1h"`.
pub(crate) fn time(meta: &ParseNestedMeta<'_>) -> syn::Result<Millis> {
    let wrong =
        |span| syn::Error::new(span, "write a time in quotes: `\"500ms\"`, `\"5s\"`, `\"2min\"` or `\"1h\"`");
    let value = value(meta, "\"5s\"")?;
    let text: LitStr = value.parse().map_err(|error| wrong(error.span()))?;
    millis(&text.value()).map(Millis).ok_or_else(|| wrong(text.span()))
}

fn millis(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_start() {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::millis;

    #[test]
    fn times_have_a_number_and_a_unit() {
        let check = |text, expected| assert_eq!(millis(text), expected, "{text}");
        check("500ms", Some(500));
        check("5s", Some(5_000));
        check("2 min", Some(120_000));
        check("1h", Some(3_600_000));
        for wrong in ["", "5", "s", "-5s", "1.5s", "5 days", "99999999999999999999s", "18446744073709551615h"]
        {
            check(wrong, None);
        }
    }
}

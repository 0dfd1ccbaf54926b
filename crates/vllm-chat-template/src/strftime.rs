//! `strftime_now`: the date in the prompt, as C's `strftime` writes it in the C locale.

use chrono::NaiveDateTime;
use chrono::format::{Item, StrftimeItems};

/// Formats a moment as Python's `datetime.strftime` does.
///
/// A conversion that is not known stays in the text; the zone conversions are empty because the
/// moment carries no zone.
pub(crate) fn strftime(now: NaiveDateTime, format: &str) -> String {
    let mut out = String::new();
    let mut rest = format;
    while let Some(start) = rest.find('%') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let length = conversion_length(rest);
        let (conversion, tail) = rest.split_at(length);
        rest = tail;
        match conversion {
            "%z" | "%Z" => {}
            "%f" => out.push_str(&now.format("%6f").to_string()),
            _ if StrftimeItems::new(conversion).any(|item| matches!(item, Item::Error)) => {
                out.push_str(conversion);
            }
            _ => out.push_str(&now.format(conversion).to_string()),
        }
    }
    out.push_str(rest);
    out
}

/// Bytes of the conversion at the start of the text: `%`, an optional flag, one character.
fn conversion_length(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match characters.next() {
        Some((_, '-' | '_' | '0')) => match characters.next() {
            Some((at, letter)) => at + letter.len_utf8(),
            None => text.len(),
        },
        Some((at, letter)) => at + letter.len_utf8(),
        None => text.len(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;

    use super::*;

    fn check(format: &str, expected: &str) {
        let now =
            NaiveDate::from_ymd_opt(2024, 7, 6).and_then(|day| day.and_hms_micro_opt(9, 5, 3, 42));
        assert_eq!(strftime(now.unwrap(), format), expected, "{format}");
    }

    #[test]
    fn writes_dates_as_python_does() {
        check("%d %b %Y", "06 Jul 2024");
        check("%B %-d, %Y (%A)", "July 6, 2024 (Saturday)");
        check("%H:%M:%S.%f", "09:05:03.000042");
        check("100%% %Z%z|", "100% |");
        check("ends with %", "ends with %");
        check("%Q \u{e9}%\u{e9}", "%Q \u{e9}%\u{e9}");
    }
}

//! How Python prints what error messages contain.

use std::fmt::Write as _;

/// A string as Python's `repr()` prints it: single quotes, double ones only when the text holds a
/// single quote and no double quote.
///
/// ```
/// # use vllm_openai::decode::string_repr;
/// assert_eq!(string_repr("it's"), "\"it's\"");
/// assert_eq!(string_repr("a\n"), r"'a\n'");
/// ```
pub fn string_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || (0x7f..0xa1).contains(&(c as u32)) || c as u32 == 0xad => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if is_unprintable(c) => {
                let _ = match c as u32 {
                    code @ 0..=0xffff => write!(out, "\\u{code:04x}"),
                    code => write!(out, "\\U{code:08x}"),
                };
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// Separators, format controls and private-use characters, which Python escapes.
fn is_unprintable(character: char) -> bool {
    matches!(character as u32,
        0x1680 | 0x2000..=0x200f | 0x2028..=0x202f | 0x205f..=0x206f | 0x3000
        | 0xe000..=0xf8ff | 0xfeff | 0xfff9..=0xfffb | 0xffff
        | 0xe0001..=0xe007f | 0xf0000..)
}

/// A float as Python's `repr()` prints it: shortest digits, exponent form below 1e-4 and from
/// 1e16 on, always with a fraction or an exponent.
///
/// ```
/// # use vllm_openai::decode::float_repr;
/// assert_eq!(float_repr(3.0), "3.0");
/// assert_eq!(float_repr(1e-7), "1e-07");
/// assert_eq!(float_repr(f64::NAN), "nan");
/// ```
pub fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 {
            "inf".to_owned()
        } else {
            "-inf".to_owned()
        };
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let scientific = format!("{value:e}");
        let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(rest) => ('-', rest),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    let plain = value.to_string();
    if plain.contains('.') {
        plain
    } else {
        plain + ".0"
    }
}

/// A JSON string literal in Python's default style: everything outside ASCII is `\uXXXX`.
pub fn json_ascii(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            ' '..='~' => out.push(character),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_python_prints_them() {
        let check = |value: f64, expected: &str| assert_eq!(float_repr(value), expected);
        check(-1.0, "-1.0");
        check(0.1, "0.1");
        check(1e16, "1e+16");
        check(123456789012345.0, "123456789012345.0");
        check(1.5e-5, "1.5e-05");
        check(0.0001, "0.0001");
        check(1e300, "1e+300");
        check(-0.0, "-0.0");
        check(f64::NEG_INFINITY, "-inf");
    }

    #[test]
    fn strings_print_as_python_prints_them() {
        let check = |text: &str, expected: &str| assert_eq!(string_repr(text), expected);
        check("plain", "'plain'");
        check("Input should be 'a'", "\"Input should be 'a'\"");
        check("both ' and \"", "'both \\' and \"'");
        check("é\u{0}\u{7f}\u{a0}\u{200b}", "'é\\x00\\x7f\\xa0\\u200b'");
        check("back\\slash\ttab", "'back\\\\slash\\ttab'");
    }

    #[test]
    fn json_escapes_everything_outside_ascii() {
        assert_eq!(
            json_ascii("é😀\"\n\u{1}"),
            "\"\\u00e9\\ud83d\\ude00\\\"\\n\\u0001\""
        );
    }
}

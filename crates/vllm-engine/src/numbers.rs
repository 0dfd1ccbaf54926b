//! Numbers as people write them: `4096`, `4k`, `4K`, `25.6k`.

use std::str::FromStr;

/// How long requests may be, as it is written on a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextLength {
    /// `auto` or `-1`: as long as the model allows and the KV cache has room for.
    Auto,
    /// This many tokens, such as 4096, `4k` (4000) or `4K` (4096).
    Tokens(usize),
}

impl FromStr for ContextLength {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" || text == "-1" {
            return Ok(Self::Auto);
        }
        let tokens = usize::try_from(human_number(text)?).map_err(|error| error.to_string())?;
        Ok(Self::Tokens(tokens))
    }
}

/// Reads a whole number with an optional suffix: `k`, `m`, `g`, `t` count in thousands, their
/// capitals in steps of 1024. Decimals go with lower-case suffixes only.
///
/// # Errors
/// A sentence for whoever typed it.
pub fn human_number(text: &str) -> Result<u64, String> {
    let refusal = || format!("`{text}` is no number such as 4096, 4k (4000), 4K (4096) or 25.6k");
    let suffix = text.chars().last().filter(char::is_ascii_alphabetic);
    let (digits, base, exponent) = match suffix {
        None => (text, 1_u64, 0),
        Some(suffix) => {
            let power = match suffix.to_ascii_lowercase() {
                'k' => 1,
                'm' => 2,
                'g' => 3,
                't' => 4,
                _ => return Err(refusal()),
            };
            let base = if suffix.is_ascii_lowercase() {
                1000
            } else {
                1024
            };
            (&text[..text.len() - 1], base, power)
        }
    };
    let unit = base.pow(exponent);
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(refusal);
    }
    // A decimal is read digit by digit, so that 25.6k is exactly 25600.
    let (whole, fraction) = digits.split_once('.').ok_or_else(refusal)?;
    let scale = 10_u64.checked_pow(u32::try_from(fraction.len()).unwrap_or(u32::MAX));
    let parts = (whole.parse::<u64>(), fraction.parse::<u64>(), scale);
    let (Ok(whole), Ok(fraction), Some(scale)) = parts else {
        return Err(refusal());
    };
    if base != 1000 {
        return Err(refusal());
    }
    let value = u128::from(whole) * u128::from(unit)
        + u128::from(fraction) * u128::from(unit) / u128::from(scale);
    u64::try_from(value).map_err(|_| refusal())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_count_in_thousands_or_in_1024s() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(human_number(text).ok(), expected, "{text}");
        };
        check("512", Some(512));
        check("1k", Some(1000));
        check("1K", Some(1024));
        check("2m", Some(2_000_000));
        check("2M", Some(2 << 20));
        check("3g", Some(3_000_000_000));
        check("1T", Some(1 << 40));
        check("25.6k", Some(25_600));
        check("1.5K", None);
        check("1.5", None);
        check("", None);
        check("k", None);
        check("-1", None);
        check("4x", None);
        check("99999999999999999999", None);
        check("99999999t", None);
    }

    #[test]
    fn context_lengths_may_be_left_to_the_model() {
        let check = |text: &str, expected: ContextLength| assert_eq!(text.parse(), Ok(expected));
        check("auto", ContextLength::Auto);
        check("-1", ContextLength::Auto);
        check("4K", ContextLength::Tokens(4096));
        assert!("many".parse::<ContextLength>().is_err());
    }
}

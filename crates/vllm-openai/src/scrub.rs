//! Keeping what a message need not tell the world out of it.

/// First components that mark a path as local.
const ROOTS: [&str; 9] = [
    "/home/", "/usr/", "/opt/", "/var/", "/tmp/", "/root/", "/lib/", "/mnt/", "/srv/",
];

/// Drops traceback file lines, turns ` at 0x…>` into `>` and absolute paths into `<path>`.
pub(crate) fn scrub(message: &str) -> String {
    if !message.contains(['/', '\n']) && !message.contains(" at 0x") {
        return message.to_owned();
    }
    let lines: Vec<&str> = message
        .split('\n')
        .filter(|line| !is_traceback_line(line))
        .collect();
    hide_paths(&hide_addresses(&lines.join("\n")))
}

fn is_traceback_line(line: &str) -> bool {
    line.trim_start().starts_with("File \"") && line.contains("\", line ")
}

fn hide_addresses(text: &str) -> String {
    const MARK: &str = " at 0x";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(MARK) {
        let digits = &rest[start + MARK.len()..];
        let end = digits
            .find(|c: char| !c.is_ascii_hexdigit())
            .unwrap_or(digits.len());
        let is_address = end > 0 && digits[end..].starts_with('>');
        let keep = if is_address {
            start
        } else {
            start + MARK.len()
        };
        out.push_str(&rest[..keep]);
        rest = if is_address { &digits[end..] } else { digits };
    }
    out.push_str(rest);
    out
}

fn hide_paths(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('/') {
        out.push_str(&rest[..start]);
        let candidate = &rest[start..];
        // A slash inside a word or after a scheme belongs to a name or an address on the web.
        let glued = out
            .chars()
            .next_back()
            .is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | ':' | '/' | '<'));
        let length = if glued { 0 } else { path_length(candidate) };
        if length > 0 {
            out.push_str("<path>");
            rest = &candidate[length..];
        } else {
            out.push('/');
            rest = &candidate[1..];
        }
    }
    out.push_str(rest);
    out
}

/// How many bytes of `text`, which starts with a slash, are an absolute path; 0 when none.
fn path_length(text: &str) -> usize {
    let end = text
        .find(|c: char| !(c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | '@')))
        .unwrap_or(text.len());
    let path = text[..end].trim_end_matches('.');
    let is_local = ROOTS.iter().any(|root| path.starts_with(root));
    let mut components = path.rsplit('/');
    let file = components.next().unwrap_or_default();
    let has_extension = file.rsplit_once('.').is_some_and(|(stem, extension)| {
        !stem.is_empty()
            && !extension.is_empty()
            && extension.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    let is_file = has_extension && components.any(|component| !component.is_empty());
    if is_local || is_file { path.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_paths_addresses_and_traceback_lines() {
        let check = |text: &str, expected: &str| assert_eq!(scrub(text), expected);
        check("no file /data/models/x.bin here", "no file <path> here");
        check("open '/root/.cache/x' failed", "open '<path>' failed");
        check("<object X at 0x7f12ab>", "<object X>");
        check("meet at 0x10 hours", "meet at 0x10 hours");
        check("boom\n  File \"a.py\", line 3, in f\nend", "boom\nend");
    }

    #[test]
    fn leaves_other_slashes_alone() {
        for text in [
            "POST /v1/completions",
            "application/json",
            "https://example.org/a/b.html",
            "characters '@', '/', '\\\\', or NUL.",
            "and/or",
        ] {
            assert_eq!(scrub(text), text);
        }
    }
}

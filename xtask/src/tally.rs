//! Counting test results in the summaries that test runners print.

use std::fmt;

/// How many tests ended in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Tally {
    /// Adds the counts of `line` if it is the summary line of nextest, `cargo test` or pytest.
    pub(crate) fn add_line(&mut self, line: &str) {
        let Some(summary) = summary_part(line) else {
            return;
        };
        let words: Vec<&str> = summary.split_whitespace().collect();
        for pair in words.windows(2) {
            let Ok(count) = pair[0].parse::<usize>() else {
                continue;
            };
            match pair[1].trim_end_matches([',', ';']) {
                "passed" => self.passed += count,
                "failed" | "error" | "errors" => self.failed += count,
                "skipped" | "ignored" => self.skipped += count,
                _ => {}
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

fn summary_part(line: &str) -> Option<&str> {
    let line = line.trim();
    if let Some((before, counts)) = line.split_once(" run: ")
        && before.starts_with("Summary [")
    {
        return Some(counts);
    }
    if let Some(counts) = line.strip_prefix("test result: ") {
        return Some(counts);
    }
    let inner = line.trim_matches('=').trim();
    let is_pytest = line.starts_with("==") && line.ends_with("==") && inner.contains(" in ");
    is_pytest.then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::Tally;

    fn check(line: &str, passed: usize, failed: usize, skipped: usize) {
        let mut tally = Tally::default();
        tally.add_line(line);
        assert_eq!(
            tally,
            Tally {
                passed,
                failed,
                skipped
            },
            "{line}"
        );
    }

    #[test]
    fn summaries_of_the_three_runners_are_counted() {
        check(
            "     Summary [   0.531s] 12 tests run: 12 passed, 3 skipped",
            12,
            0,
            3,
        );
        check(
            "     Summary [   9.1s] 12 tests run: 10 passed (1 slow), 2 failed, 0 skipped",
            10,
            2,
            0,
        );
        check(
            "     Summary [   0.1s] 1 test run: 1 passed, 0 skipped",
            1,
            0,
            0,
        );
        check(
            "test result: ok. 7 passed; 0 failed; 2 ignored; 0 measured; 1 filtered out",
            7,
            0,
            2,
        );
        check(
            "test result: FAILED. 6 passed; 1 failed; 0 ignored; 0 measured",
            6,
            1,
            0,
        );
        check(
            "======== 3 failed, 40 passed, 1 skipped in 12.31s ========",
            40,
            3,
            1,
        );
        check("======== 5 passed, 1 error in 0.31s ========", 5, 1, 0);
    }

    #[test]
    fn other_lines_count_nothing() {
        check("======== test session starts ========", 0, 0, 0);
        check("running 12 tests", 0, 0, 0);
        check("a test wrote 3 passed, 4 failed in 2 s", 0, 0, 0);
        check("", 0, 0, 0);
    }

    #[test]
    fn counts_of_several_lines_add_up() {
        let mut tally = Tally::default();
        tally.add_line("test result: ok. 7 passed; 0 failed; 2 ignored;");
        tally.add_line("== 1 failed, 2 passed in 1s ==");
        assert_eq!(tally.to_string(), "9 passed, 1 failed, 2 skipped");
    }
}

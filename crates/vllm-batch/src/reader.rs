//! Reads rows one at a time, so that a data set never has to fit in memory.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::row::Row;

/// How a file's rows are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputFormat {
    /// One prompt a line; empty lines are skipped.
    Text,
    /// One JSON object a line; empty lines are skipped.
    JsonLines,
}

impl InputFormat {
    /// `.jsonl`, `.ndjson` and `.json` hold JSON lines, everything else text.
    pub fn of_path(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl" | "ndjson" | "json") => Self::JsonLines,
            _ => Self::Text,
        }
    }

    fn parse(self, line: &str) -> std::result::Result<Row, String> {
        match self {
            Self::Text => Ok(Row::from_text(line)),
            Self::JsonLines => Row::from_json(line),
        }
    }
}

/// Iterates over the rows of a file. A line that is no row comes as a sentence with its number;
/// a file that cannot be read on ends the job.
pub struct RowReader {
    path: PathBuf,
    format: InputFormat,
    reader: BufReader<File>,
    line: String,
    line_number: usize,
}

impl RowReader {
    /// Opens a file; its name decides the format.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::File {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            format: InputFormat::of_path(path),
            reader: BufReader::new(file),
            line: String::new(),
            line_number: 0,
        })
    }

    /// Counts the rows of a file without parsing them, for progress displays.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn count_rows(path: &Path) -> Result<usize> {
        let mut reader = Self::open(path)?;
        let mut rows = 0;
        while reader.read_line()? {
            rows += 1;
        }
        Ok(rows)
    }

    /// Moves on to the next line that is not blank.
    fn read_line(&mut self) -> Result<bool> {
        loop {
            self.line.clear();
            self.line_number += 1;
            let read = self
                .reader
                .read_line(&mut self.line)
                .map_err(|source| Error::File {
                    path: self.path.clone(),
                    source,
                })?;
            if read == 0 {
                return Ok(false);
            }
            if !self.line.trim().is_empty() {
                return Ok(true);
            }
        }
    }
}

impl Iterator for RowReader {
    type Item = Result<std::result::Result<Row, String>>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.read_line() {
            Ok(true) => {
                let line = self.line.trim_end_matches(['\n', '\r']);
                let row = self.format.parse(line).map_err(|message| {
                    format!("{}:{}: {message}", self.path.display(), self.line_number)
                });
                Some(Ok(row))
            }
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_blank_lines_and_numbers_bad_ones() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        std::fs::write(
            &path,
            "{\"prompt\":\"a\"}\n\n{\"prompt\":\r\n{\"prompt\":\"b\"}",
        )
        .unwrap();
        assert_eq!(RowReader::count_rows(&path).unwrap(), 3);
        let rows: Vec<_> = RowReader::open(&path)
            .unwrap()
            .map(|row| row.unwrap())
            .collect();
        assert_eq!(
            rows[0].as_ref().unwrap(),
            &Row::from_json(r#"{"prompt":"a"}"#).unwrap()
        );
        assert!(
            rows[1]
                .as_ref()
                .unwrap_err()
                .contains("rows.jsonl:3: not valid JSON")
        );
        assert!(rows[2].is_ok());
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = RowReader::open(Path::new("no/such.txt"))
            .err()
            .unwrap()
            .to_string();
        assert!(error.starts_with("no/such.txt: "), "{error}");
    }
}

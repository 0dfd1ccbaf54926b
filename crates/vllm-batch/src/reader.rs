//! Reads rows one at a time, so that a data set never has to fit in memory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use crate::done::chain;
use crate::error::{Error, Result};
use crate::openai::BatchRequest;
use crate::parquet::ParquetRows;
use crate::row::{Row, RowInput, UnreadRow};

/// How a file's rows are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputFormat {
    /// One prompt a line; empty lines are skipped.
    Text,
    /// One JSON object a line; empty lines are skipped.
    JsonLines,
    /// JSON lines with `custom_id`, `method`, `url` and `body`.
    OpenAiBatch,
    /// Comma-separated values below a line of column names.
    Csv,
    /// A table in an Apache Parquet file.
    Parquet,
}

impl InputFormat {
    /// `.jsonl`, `.ndjson` and `.json` hold JSON lines, `.csv` and `.parquet` tables, everything else
    /// text.
    pub fn of_path(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl" | "ndjson" | "json") => Self::JsonLines,
            Some("csv") => Self::Csv,
            Some("parquet") => Self::Parquet,
            _ => Self::Text,
        }
    }

    /// The name on a command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::JsonLines => "jsonl",
            Self::OpenAiBatch => "openai-batch",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
}

/// What a data set is, as far as its bytes do not say so themselves.
#[derive(Debug, Clone)]
pub struct InputOptions {
    /// How rows are written down. Without, the file's name decides, and JSON lines that begin
    /// with a line of an OpenAI batch file are one.
    pub format: Option<InputFormat>,
    /// The column of a table that is the prompt.
    pub prompt_column: String,
}

impl Default for InputOptions {
    fn default() -> Self {
        Self {
            format: None,
            prompt_column: "prompt".to_owned(),
        }
    }
}

/// What one pass over a data set finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Survey {
    /// Rows, damaged ones included.
    pub rows: u64,
    /// CRC-32 over the checksums of all rows.
    pub checksum: u32,
}

/// A row as it was read, not yet understood.
#[derive(Debug)]
pub struct Record {
    /// Position in the data set, from 0.
    pub index: u64,
    /// CRC-32 of its bytes.
    pub checksum: u32,
    name: Arc<str>,
    line: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Line(InputFormat, Vec<u8>),
    Csv(Arc<Header>, csv::ByteRecord),
    Columns(Arc<str>, serde_json::Map<String, serde_json::Value>),
    Damaged(String),
}

/// The first line of a CSV file.
#[derive(Debug)]
struct Header {
    names: Vec<String>,
    prompt_column: usize,
}

impl Record {
    /// Understands the row.
    ///
    /// # Errors
    /// Why it is none, in a sentence that begins with the file and the line.
    pub fn parse(self) -> std::result::Result<Row, UnreadRow> {
        let row = match self.content {
            Content::Line(InputFormat::OpenAiBatch, line) => Ok(Row {
                input: RowInput::Batch(BatchRequest::parse(&line)),
                columns: serde_json::Map::new(),
            }),
            Content::Line(format, line) => match std::str::from_utf8(&line) {
                Ok(line) if format == InputFormat::Text => Ok(Row::from_text(line)),
                Ok(line) => Row::from_json(line),
                Err(_) => Err(UnreadRow::damaged("not valid UTF-8")),
            },
            Content::Csv(header, record) => {
                Row::from_csv(&header.names, header.prompt_column, &record)
            }
            Content::Columns(prompt_column, columns) => Row::from_table(columns, &prompt_column),
            Content::Damaged(message) => Err(UnreadRow::damaged(message)),
        };
        row.map_err(|unread| UnreadRow {
            reason: format!("{}:{}: {}", self.name, self.line, unread.reason),
            ..unread
        })
    }
}

/// Iterates over the rows of a file or stream. A file that cannot be read on ends the job.
pub struct RowReader {
    name: Arc<str>,
    source: Source,
    next_index: u64,
}

enum Source {
    Lines {
        reader: Box<dyn BufRead + Send>,
        format: InputFormat,
        /// Whether the first line may show that this is a batch file.
        may_be_batch: bool,
        line: u64,
    },
    Csv {
        reader: Box<csv::Reader<Box<dyn Read + Send>>>,
        header: Arc<Header>,
    },
    Parquet {
        rows: Box<ParquetRows>,
        prompt_column: Arc<str>,
    },
}

impl RowReader {
    /// Opens a file.
    ///
    /// # Errors
    /// The file cannot be opened, or it is a table without the prompt's column.
    pub fn open(path: &Path, options: &InputOptions) -> Result<Self> {
        Self::open_as(&path.display().to_string(), path, options)
    }

    /// Opens a file that is called `name` in messages: the local copy of something else.
    ///
    /// # Errors
    /// As [`RowReader::open`].
    pub fn open_as(name: &str, path: &Path, options: &InputOptions) -> Result<Self> {
        let file = File::open(path).map_err(Error::at(path))?;
        if file.metadata().is_ok_and(|metadata| metadata.is_dir()) {
            return Err(Error::Input(format!("{name}: is a folder, not a data set")));
        }
        let by_name = InputFormat::of_path(path);
        if options.format.unwrap_or(by_name) == InputFormat::Parquet {
            return Ok(Self {
                name: name.into(),
                source: parquet_source(name, file, &options.prompt_column)?,
                next_index: 0,
            });
        }
        Self::new(name.to_owned(), file, by_name, options)
    }

    /// Reads a stream, which is text unless the options say otherwise.
    ///
    /// # Errors
    /// The stream is a table without the prompt's column.
    pub fn from_stream(
        name: &str,
        stream: impl Read + Send + 'static,
        options: &InputOptions,
    ) -> Result<Self> {
        Self::new(name.to_owned(), stream, InputFormat::Text, options)
    }

    fn new(
        name: String,
        stream: impl Read + Send + 'static,
        by_name: InputFormat,
        options: &InputOptions,
    ) -> Result<Self> {
        let format = options.format.unwrap_or(by_name);
        let source = match format {
            InputFormat::Parquet => {
                let reason = "a Parquet file is read from its end; give the file's name";
                return Err(Error::Input(format!("{name}: {reason}")));
            }
            InputFormat::Csv => csv_source(&name, Box::new(stream), &options.prompt_column)?,
            format => Source::Lines {
                reader: Box::new(BufReader::with_capacity(1 << 16, stream)),
                format,
                may_be_batch: options.format.is_none() && format == InputFormat::JsonLines,
                line: 0,
            },
        };
        Ok(Self {
            name: name.into(),
            source,
            next_index: 0,
        })
    }

    /// Counts the rows of a file without understanding them.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn survey(path: &Path, options: &InputOptions) -> Result<Survey> {
        Self::survey_as(&path.display().to_string(), path, options)
    }

    /// Counts the rows of a file that is called `name` in messages.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn survey_as(name: &str, path: &Path, options: &InputOptions) -> Result<Survey> {
        let mut survey = Survey {
            rows: 0,
            checksum: 0,
        };
        for record in Self::open_as(name, path, options)? {
            survey.rows += 1;
            survey.checksum = chain(survey.checksum, record?.checksum);
        }
        Ok(survey)
    }

    fn read(&mut self) -> Result<Option<Record>> {
        let index = self.next_index;
        let path = Path::new(&*self.name);
        let (checksum, line, content) = match &mut self.source {
            Source::Lines {
                reader,
                format,
                may_be_batch,
                line,
            } => {
                let Some(bytes) = next_line(reader, line).map_err(Error::at(path))? else {
                    return Ok(None);
                };
                if std::mem::take(may_be_batch) && BatchRequest::looks_like_one(&bytes) {
                    *format = InputFormat::OpenAiBatch;
                }
                let checksum = crc32fast::hash(&bytes);
                (checksum, *line, Content::Line(*format, bytes))
            }
            Source::Csv { reader, header } => {
                let mut record = csv::ByteRecord::new();
                let damage = match reader.read_byte_record(&mut record) {
                    Ok(false) => return Ok(None),
                    Ok(true) => None,
                    Err(error) => match error.into_kind() {
                        csv::ErrorKind::Io(source) => return Err(Error::at(path)(source)),
                        csv::ErrorKind::UnequalLengths {
                            expected_len, len, ..
                        } => Some(format!("{len} columns in place of {expected_len}")),
                        other => Some(format!("not a CSV record: {other:?}")),
                    },
                };
                let mut hasher = crc32fast::Hasher::new();
                for field in &record {
                    hasher.update(&field.len().to_le_bytes());
                    hasher.update(field);
                }
                let line = record.position().map_or(0, csv::Position::line);
                let content = match damage {
                    Some(message) => Content::Damaged(message),
                    None => Content::Csv(Arc::clone(header), record),
                };
                (hasher.finalize(), line, content)
            }
            Source::Parquet {
                rows,
                prompt_column,
            } => {
                let Some(columns) = rows.next_row()? else {
                    return Ok(None);
                };
                let checksum = checksum_of(&columns)?;
                let content = Content::Columns(Arc::clone(prompt_column), columns);
                (checksum, index + 1, content)
            }
        };
        self.next_index += 1;
        Ok(Some(Record {
            index,
            checksum,
            name: Arc::clone(&self.name),
            line,
            content,
        }))
    }
}

impl Iterator for RowReader {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// The next line that is not blank, without its end. `number` counts all lines from 1.
fn next_line(reader: &mut impl BufRead, number: &mut u64) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        *number += 1;
        if *number == 1 && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        if !line.trim_ascii().is_empty() {
            let end = line.iter().rposition(|byte| !b"\r\n".contains(byte));
            line.truncate(end.map_or(0, |end| end + 1));
            return Ok(Some(line));
        }
    }
}

fn parquet_source(name: &str, file: File, prompt_column: &str) -> Result<Source> {
    let rows = ParquetRows::open(name, file)?;
    let has = |column: &str| rows.columns().iter().any(|found| found == column);
    if !has(prompt_column) && !has("messages") {
        return Err(no_prompt_column(name, prompt_column, rows.columns()));
    }
    Ok(Source::Parquet {
        rows: Box::new(rows),
        prompt_column: prompt_column.into(),
    })
}

fn no_prompt_column(name: &str, column: &str, columns: &[String]) -> Error {
    Error::NoPromptColumn {
        name: name.to_owned(),
        column: column.to_owned(),
        columns: columns.join(", "),
    }
}

/// CRC-32 of the row as JSON, which is never put together.
fn checksum_of(columns: &serde_json::Map<String, serde_json::Value>) -> Result<u32> {
    struct Crc(crc32fast::Hasher);
    impl std::io::Write for Crc {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut crc = Crc(crc32fast::Hasher::new());
    serde_json::to_writer(&mut crc, columns).map_err(|error| Error::Input(error.to_string()))?;
    Ok(crc.0.finalize())
}

fn csv_source(name: &str, stream: Box<dyn Read + Send>, prompt_column: &str) -> Result<Source> {
    let mut reader = csv::Reader::from_reader(stream);
    let names: Vec<String> = reader
        .headers()
        .map_err(|error| Error::Input(format!("{name}: no line of column names: {error}")))?
        .iter()
        .map(str::to_owned)
        .collect();
    let Some(column) = names.iter().position(|name| name == prompt_column) else {
        return Err(no_prompt_column(name, prompt_column, &names));
    };
    Ok(Source::Csv {
        reader: Box::new(reader),
        header: Arc::new(Header {
            names,
            prompt_column: column,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &'static str, format: InputFormat) -> Vec<std::result::Result<Row, UnreadRow>> {
        let options = InputOptions {
            format: Some(format),
            ..InputOptions::default()
        };
        RowReader::from_stream("rows", text.as_bytes(), &options)
            .unwrap()
            .map(|record| record.unwrap().parse())
            .collect()
    }

    #[test]
    fn skips_blank_lines_and_numbers_bad_ones() {
        let rows = rows(
            "{\"prompt\":\"a\"}\n\n{\"prompt\":\r\n{\"prompt\":\"b\"}",
            InputFormat::JsonLines,
        );
        assert_eq!(rows[0], Row::from_json(r#"{"prompt":"a"}"#));
        let message = &rows[1].as_ref().unwrap_err().reason;
        assert!(message.starts_with("rows:3: not valid JSON"), "{message}");
        assert!(rows[2].is_ok());
        assert_eq!(rows.len(), 3);
    }

    #[test]
    fn a_byte_order_mark_and_bad_utf_8_do_no_harm() {
        let options = InputOptions::default();
        let bytes: &[u8] = b"\xef\xbb\xbffirst\r\n\xff\n last ";
        let rows: Vec<_> = RowReader::from_stream("rows", bytes, &options)
            .unwrap()
            .map(|record| record.unwrap().parse())
            .collect();
        assert_eq!(rows[0], Ok(Row::from_text("first")));
        assert_eq!(rows[1], Err(UnreadRow::damaged("rows:2: not valid UTF-8")));
        assert_eq!(rows[2], Ok(Row::from_text(" last ")));
    }

    #[test]
    fn a_table_gives_prompts_and_columns() {
        let rows = rows(
            "id,prompt\n1,\"two\nlines, one field\"\n2\n3,c\n",
            InputFormat::Csv,
        );
        let first = rows[0].as_ref().unwrap();
        assert_eq!(
            first.input,
            RowInput::Prompt("two\nlines, one field".into())
        );
        assert_eq!(first.columns["id"], "1");
        assert_eq!(
            rows[1],
            Err(UnreadRow::damaged("rows:4: 1 columns in place of 2"))
        );
        assert_eq!(rows[2].as_ref().unwrap().columns["id"], "3");
    }

    #[test]
    fn a_missing_column_is_named_with_those_there_are() {
        let options = InputOptions {
            format: Some(InputFormat::Csv),
            ..InputOptions::default()
        };
        let error = RowReader::from_stream("t.csv", "id,question\n".as_bytes(), &options)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("no column `prompt`"), "{error}");
        assert!(error.ends_with("one of: id, question"), "{error}");
    }

    #[test]
    fn the_first_line_shows_a_batch_file() {
        let check = |line: &str, is_batch: bool| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("rows.jsonl");
            std::fs::write(&path, format!("\n{line}\n{{}}\n")).unwrap();
            let options = InputOptions::default();
            assert_eq!(RowReader::survey(&path, &options).unwrap().rows, 2);
            for record in RowReader::open(&path, &options).unwrap() {
                let row = record.unwrap().parse();
                let found = matches!(&row, Ok(row) if matches!(row.input, RowInput::Batch(_)));
                assert_eq!(found, is_batch, "{row:?}");
            }
        };
        check(
            r#"{"custom_id":"a","url":"/v1/completions","body":{}}"#,
            true,
        );
        check(r#"{"custom_id":"a"}"#, false);
        check("[", false);
    }

    #[test]
    fn a_survey_tells_data_sets_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.txt");
        let survey = |text: &str| {
            std::fs::write(&path, text).unwrap();
            RowReader::survey(&path, &InputOptions::default()).unwrap()
        };
        let first = survey("a\nb\n");
        assert_eq!(first.rows, 2);
        assert_eq!(first, survey("a\n\nb"));
        assert_ne!(first, survey("b\na\n"));
        assert_ne!(first, survey("a\nb\nc\n"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = RowReader::open(Path::new("no/such.txt"), &InputOptions::default())
            .err()
            .unwrap()
            .to_string();
        assert!(error.starts_with("no/such.txt: "), "{error}");
    }
}

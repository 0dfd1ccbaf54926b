//! The data set that the flags name.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vllm_batch::{Error, InputFormat, InputOptions, Record, RowReader, Survey};

use crate::args::DataArgs;

/// The prompts of vLLM's quick start.
const SAMPLE_PROMPTS: &str = "Hello, my name is
The president of the United States is
The capital of France is
The future of AI is
";

/// An open data set, and what is known of it before it is read.
pub(crate) struct DataSet {
    rows: RowReader,
    identity: Value,
    first_row: u64,
    /// Unknown of a stream.
    end: Option<u64>,
}

impl DataSet {
    /// Opens the data set at `input`, a path and what to call it.
    pub(crate) fn open(args: &DataArgs, input: Option<&(PathBuf, String)>) -> Result<Self, Error> {
        let mut options = args.input_options();
        match input {
            None => {
                options.format = Some(InputFormat::Text);
                let survey = Survey {
                    rows: SAMPLE_PROMPTS.lines().count() as u64,
                    checksum: 0,
                };
                let prompts = SAMPLE_PROMPTS.as_bytes();
                let rows = RowReader::from_stream("sample prompts", prompts, &options)?;
                Ok(Self::new(rows, &options, Some(survey)))
            }
            Some((path, _)) if path == Path::new("-") => {
                if args.shard.is_some() {
                    let message = "--shard needs --input FILE: the rows of standard input cannot \
                                   be counted before they are read";
                    return Err(Error::Input(message.to_owned()));
                }
                let stdin = std::io::stdin();
                let rows = RowReader::from_stream("standard input", stdin, &options)?;
                Ok(Self::new(rows, &options, None))
            }
            Some((path, name)) => {
                let is_stream = path.metadata().is_ok_and(|metadata| {
                    !metadata.is_file() && !metadata.is_dir() && args.shard.is_none()
                });
                let survey = match is_stream {
                    true => None,
                    false => Some(RowReader::survey_as(name, path, &options)?),
                };
                let rows = RowReader::open_as(name, path, &options)?;
                let mut data = Self::new(rows, &options, survey);
                if let (Some(shard), Some(survey)) = (args.shard, survey) {
                    let rows = shard.rows_of(survey.rows);
                    (data.first_row, data.end) = (rows.start, Some(rows.end));
                }
                Ok(data)
            }
        }
    }

    fn new(rows: RowReader, options: &InputOptions, survey: Option<Survey>) -> Self {
        Self {
            rows,
            identity: json!({
                "format": options.format.map(InputFormat::as_str),
                "prompt_column": options.prompt_column,
                "rows": survey.map(|survey| survey.rows),
                "checksum": survey.map(|survey| survey.checksum),
            }),
            first_row: 0,
            end: survey.map(|survey| survey.rows),
        }
    }

    /// What tells this data set from others.
    pub(crate) fn identity(&self) -> Value {
        self.identity.clone()
    }

    pub(crate) fn first_row(&self) -> u64 {
        self.first_row
    }

    /// How many rows there are to answer, if that is known.
    pub(crate) fn num_rows(&self) -> Option<u64> {
        Some(self.end? - self.first_row)
    }

    /// The rows to answer.
    pub(crate) fn into_rows(self) -> impl Iterator<Item = Result<Record, Error>> + Send {
        let (first, end) = (self.first_row, self.end.unwrap_or(u64::MAX));
        let index = |row: &Result<Record, Error>| row.as_ref().ok().map(|record| record.index);
        self.rows
            .skip_while(move |row| index(row).is_some_and(|index| index < first))
            .take_while(move |row| index(row).is_none_or(|index| index < end))
    }
}

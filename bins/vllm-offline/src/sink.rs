//! Where results go: through a journal into a file, or to a stream as they come.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::Path;

use vllm_batch::{
    Answer, DoneRows, Error, InOrder, JobIdentity, Journal, LockedJournal, OutputOrder, Progress,
    RowResult,
};

use crate::args::DataArgs;
use crate::places::Places;

/// A place that nobody else writes to, before it is known what the job is.
pub(crate) enum OpenSink {
    Journal(LockedJournal),
    Stream(Form, Box<dyn Write>),
}

/// How results look on a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    JsonLines,
    Text,
}

/// A place for results.
pub(crate) enum Sink {
    Journal(Journal),
    Stream(Stream),
}

/// A stream that gets results in order.
pub(crate) struct Stream {
    form: Form,
    out: Box<dyn Write>,
    /// Absent when results are written as they finish.
    in_order: Option<InOrder<RowResult>>,
}

impl OpenSink {
    pub(crate) fn open(output: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = output else {
            return Ok(Self::Stream(Form::Text, Box::new(std::io::stdout())));
        };
        if path == Path::new("-") {
            return Ok(Self::Stream(Form::JsonLines, Box::new(std::io::stdout())));
        }
        // A device or a pipe can be neither kept a journal beside nor replaced.
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            let file = File::options().write(true).open(path);
            let file = file.map_err(|source| Error::File {
                path: path.to_owned(),
                source,
            })?;
            return Ok(Self::Stream(
                Form::JsonLines,
                Box::new(BufWriter::new(file)),
            ));
        }
        Ok(Self::Journal(LockedJournal::open(path)?))
    }

    pub(crate) fn begin(
        self,
        job: &JobIdentity,
        first_row: u64,
        args: &DataArgs,
    ) -> Result<Sink, Error> {
        Ok(match self {
            Self::Journal(journal) => {
                Sink::Journal(journal.resume(job, first_row, args.restart)?)
            }
            Self::Stream(form, out) => Sink::Stream(Stream {
                form,
                out,
                in_order: (!args.as_finished).then(|| InOrder::starting_at(first_row)),
            }),
        })
    }
}

impl Sink {
    /// Unix time at which the job was begun.
    pub(crate) fn created(&self) -> u64 {
        match self {
            Self::Journal(journal) => journal.created(),
            Self::Stream(_) => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |now| now.as_secs()),
        }
    }

    /// What earlier runs have done.
    pub(crate) fn progress(&self) -> Progress {
        match self {
            Self::Journal(journal) => journal.progress(),
            Self::Stream(_) => Progress::default(),
        }
    }

    /// The rows that earlier runs have done.
    pub(crate) fn done(&self, first_row: u64) -> DoneRows {
        match self {
            Self::Journal(journal) => journal.done().clone(),
            Self::Stream(_) => DoneRows::starting_at(first_row),
        }
    }

    /// Whether results are printed where a progress bar may be.
    pub(crate) fn is_on_the_terminal(&self) -> bool {
        matches!(self, Self::Stream(_)) && std::io::stdout().is_terminal()
    }

    pub(crate) fn put(&mut self, result: RowResult) -> Result<(), Error> {
        match self {
            Self::Journal(journal) => journal.put(&result),
            Self::Stream(Stream {
                form,
                out,
                in_order,
            }) => match in_order {
                Some(in_order) => in_order.push(result.index, result, |result| {
                    Ok(write(out, *form, &result)?)
                }),
                None => Ok(write(out, *form, &result)?),
            },
        }
    }

    /// All rows are done.
    pub(crate) fn finish(self, args: &DataArgs, places: &Places) -> Result<(), Error> {
        match self {
            Self::Journal(journal) => {
                let order = match args.as_finished {
                    true => OutputOrder::Finished,
                    false => OutputOrder::Input,
                };
                journal.finish_with(order, |written, output| places.deliver(written, output))
            }
            Self::Stream(mut stream) => Ok(stream.out.flush()?),
        }
    }

    /// The job ends before all rows are done.
    pub(crate) fn leave(self) -> Result<(), Error> {
        match self {
            Self::Journal(mut journal) => journal.sync(),
            Self::Stream(mut stream) => Ok(stream.out.flush()?),
        }
    }
}

fn write(out: &mut dyn Write, form: Form, result: &RowResult) -> std::io::Result<()> {
    let (Form::Text, Answer::Plain { output, .. }) = (form, &result.answer) else {
        return writeln!(out, "{}", result.to_json_line());
    };
    if let Some(message) = &result.error {
        writeln!(out, "Row {}: error: {message}", result.index)?;
    }
    let Some(output) = output else { return Ok(()) };
    let prompt = output.prompt.as_deref().unwrap_or_default();
    output
        .outputs
        .iter()
        .try_for_each(|sample| writeln!(out, "Prompt: {prompt:?}, Text: {:?}", sample.text))
}

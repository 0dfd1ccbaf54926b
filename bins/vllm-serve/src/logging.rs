//! Log lines as vLLM and uvicorn write them.

use std::fmt;
use std::io::{self, Write};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use vllm_server::{ACCESS_TARGET, LIFECYCLE_TARGET};

use crate::args::LogLevel;

/// How to log.
#[derive(Debug, Clone)]
pub(crate) struct LogSettings {
    /// Level of vLLM's own lines.
    pub(crate) level: LogLevel,
    /// Level of access and life-cycle lines.
    pub(crate) uvicorn_level: LogLevel,
    /// Text in front of each of vLLM's own lines.
    pub(crate) prefix: String,
    /// Write vLLM's own lines to standard error instead of standard output.
    pub(crate) to_stderr: bool,
}

/// Sends all events of this process to its output.
pub(crate) fn install(settings: &LogSettings) {
    let own = filter(settings.level);
    let filter = Targets::new()
        .with_default(LevelFilter::WARN.min(own))
        .with_target("vllm", own)
        .with_target(ACCESS_TARGET, filter(settings.uvicorn_level))
        .with_target(LIFECYCLE_TARGET, filter(settings.uvicorn_level));
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Lines {
            prefix: settings.prefix.clone(),
            pid: std::process::id(),
        })
        .with_writer(Outputs {
            to_stderr: settings.to_stderr,
        });
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .init();
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Critical | LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

struct Lines {
    prefix: String,
    pid: u32,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        if matches!(metadata.target(), ACCESS_TARGET | LIFECYCLE_TARGET) {
            line.write_str("INFO:     ")?;
        } else {
            let time = chrono::Local::now().format("%m-%d %H:%M:%S");
            let (level, file) = (level_name(metadata.level()), file_name(metadata));
            let row = metadata.line().unwrap_or(0);
            let (prefix, pid) = (&self.prefix, self.pid);
            write!(
                line,
                "{prefix}(APIServer pid={pid}) {level} {time} [{file}:{row}] "
            )?;
        }
        context.field_format().format_fields(line.by_ref(), event)?;
        writeln!(line)
    }
}

fn level_name(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

fn file_name<'a>(metadata: &'a Metadata<'_>) -> &'a str {
    metadata
        .file()
        .and_then(|path| path.rsplit(['/', '\\']).next())
        .unwrap_or("vllm")
}

/// Life-cycle lines go to standard error, the others where the settings say.
struct Outputs {
    to_stderr: bool,
}

impl<'a> MakeWriter<'a> for Outputs {
    type Writer = Box<dyn Write>;

    fn make_writer(&'a self) -> Self::Writer {
        if self.to_stderr {
            Box::new(io::stderr())
        } else {
            Box::new(io::stdout())
        }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        match metadata.target() {
            LIFECYCLE_TARGET => Box::new(io::stderr()),
            ACCESS_TARGET => Box::new(io::stdout()),
            _ => self.make_writer(),
        }
    }
}

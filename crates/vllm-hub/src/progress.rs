//! What a download tells about itself.

/// Receives [`Progress`] events, possibly from several threads at once.
pub type ProgressCallback = dyn Fn(&Progress<'_>) + Send + Sync;

/// One step of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A file is about to be fetched.
    Started {
        /// The file's name inside the model.
        file: &'a str,
        /// The size of the whole file in bytes, where the hub tells it.
        size: Option<u64>,
        /// Bytes that an earlier, broken download has already brought.
        present: u64,
    },
    /// More of a file has arrived.
    Advanced {
        /// The file's name inside the model.
        file: &'a str,
        /// Bytes of the file that are here now, of all downloads together.
        present: u64,
    },
    /// A file is complete and checked.
    Finished {
        /// The file's name inside the model.
        file: &'a str,
    },
}

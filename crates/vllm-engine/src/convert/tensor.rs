//! The numbers of a tensor on their way from one form to another, on all cores.

use std::fs::File;
use std::io::BufWriter;
use std::ops::ControlFlow;
use std::thread;

use vllm_models::LoadProgress;

use super::output::PartialOutput;
use crate::error::{Error, Result};

/// Bytes that are packed before they are written.
const PIECE_BYTES: usize = 4 << 20;

/// A file that is being written, and how far it has come.
pub(super) struct Writer<'a> {
    output: &'a PartialOutput,
    file: BufWriter<File>,
    written: u64,
    total: u64,
    progress: &'a mut dyn FnMut(LoadProgress) -> ControlFlow<()>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        output: &'a PartialOutput,
        file: BufWriter<File>,
        total: u64,
        progress: &'a mut dyn FnMut(LoadProgress) -> ControlFlow<()>,
    ) -> Self {
        Self {
            output,
            file,
            written: 0,
            total,
            progress,
        }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<ControlFlow<()>> {
        self.output.write_all(&mut self.file, bytes)?;
        self.written += bytes.len() as u64;
        Ok((self.progress)(LoadProgress {
            loaded_bytes: self.written.min(self.total),
            total_bytes: self.total,
        }))
    }

    /// Writes `rows` rows of `row_bytes`, each as `pack` fills it.
    pub(super) fn put_rows(
        &mut self,
        rows: usize,
        row_bytes: usize,
        pack: impl Fn(usize, &mut [u8]) -> Result<()> + Sync,
    ) -> Result<ControlFlow<()>> {
        let rows_of_piece = (PIECE_BYTES / row_bytes.max(1)).clamp(1, rows.max(1));
        let mut piece = vec![0; rows_of_piece * row_bytes];
        for first in (0..rows).step_by(rows_of_piece) {
            let count = rows_of_piece.min(rows - first);
            let piece = &mut piece[..count * row_bytes];
            on_all_cores(first, row_bytes, piece, &pack)?;
            if self.put(piece)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    pub(super) fn close(self) -> Result<()> {
        self.output.close(self.file)
    }
}

/// Fills the rows of `piece`, the first of which is row `first`.
fn on_all_cores(
    first: usize,
    row_bytes: usize,
    piece: &mut [u8],
    pack: &(impl Fn(usize, &mut [u8]) -> Result<()> + Sync),
) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let rows_of_core = (piece.len() / row_bytes).div_ceil(cores).max(1);
    thread::scope(|scope| {
        let parts = piece.chunks_mut(rows_of_core * row_bytes).enumerate();
        let threads: Vec<_> = parts
            .map(|(core, part)| {
                scope.spawn(move || {
                    for (row, bytes) in part.chunks_mut(row_bytes).enumerate() {
                        pack(first + core * rows_of_core + row, bytes)?;
                    }
                    Ok(())
                })
            })
            .collect();
        let failed = |_| Error::Setup("writing weights failed unexpectedly".to_owned());
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(failed)?)
    })
}

//! The shadow of the KV cache.

use vllm_scheduler::{PlannedSequence, Scheduler};

/// What a position's keys and values depend on: all tokens up to it, and whose cache it is.
pub(crate) type Fingerprint = u64;

/// Continues a fingerprint by one token.
pub(crate) fn extend(fingerprint: Fingerprint, token_id: u32) -> Fingerprint {
    let mixed = (fingerprint ^ u64::from(token_id)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_add(1)
}

/// What one sequence has at stake in a step.
pub(crate) struct Share<'a> {
    pub(crate) planned: PlannedSequence,
    /// Of each of its tokens.
    pub(crate) fingerprints: &'a [Fingerprint],
    /// Tokens it had in the cache before this step, and kept since.
    pub(crate) num_kept_tokens: usize,
}

pub(crate) struct Memory {
    block_size: usize,
    positions: Vec<Fingerprint>,
    /// Step in which each position was written last.
    written_in: Vec<u64>,
    step: u64,
}

impl Memory {
    pub(crate) fn new(num_blocks: usize, block_size: usize) -> Self {
        let num_positions = num_blocks * block_size;
        Self {
            block_size,
            positions: vec![0; num_positions],
            written_in: vec![0; num_positions],
            step: 0,
        }
    }

    /// Computes a step: writes what is planned, then reads everything the step attends to.
    ///
    /// Tests that no position is written twice, that none is written under a sequence that has it
    /// in the cache already, and that every sequence finds exactly its own past.
    pub(crate) fn compute(&mut self, scheduler: &Scheduler, shares: &[Share<'_>]) {
        self.step += 1;
        for share in shares {
            let PlannedSequence {
                request_id,
                start,
                num_tokens,
                ..
            } = share.planned;
            let table = scheduler.block_table(request_id);
            for position in start..start + num_tokens {
                let place = self.place(table, position);
                assert_ne!(
                    self.written_in[place], self.step,
                    "two writers of one position"
                );
                self.written_in[place] = self.step;
                self.positions[place] = share.fingerprints[position];
            }
        }
        for share in shares {
            let PlannedSequence {
                request_id,
                start,
                num_tokens,
                ..
            } = share.planned;
            let table = scheduler.block_table(request_id);
            for position in 0..start + num_tokens {
                let place = self.place(table, position);
                assert_eq!(
                    self.positions[place], share.fingerprints[position],
                    "request {request_id} reads what is not its own at {position}"
                );
                if position < share.num_kept_tokens {
                    assert_ne!(
                        self.written_in[place], self.step,
                        "a computed block overwritten"
                    );
                }
            }
        }
    }

    fn place(&self, table: &[u32], position: usize) -> usize {
        table[position / self.block_size] as usize * self.block_size + position % self.block_size
    }
}

//! How a step of attention is cut into tasks.

use std::collections::HashMap;
use std::ops::Range;

use super::Problem;
use super::engine::PARTITION_KEYS;
use super::task::{MAX_ROWS, State};
use crate::Result;
use crate::cpu::kv_store::{KvLayout, STRIP};
use crate::cpu::pool;
use crate::metadata::SequenceLayout;

/// Rows that a task computes together: of one sequence, or of several that share keys.
pub(super) struct Tile {
    /// Whose keys and values are read.
    pub(super) sequence: SequenceLayout,
    /// Sequences of one token in this step; the keys that the tile is for are the same to all. Empty
    /// for a tile of `sequence` alone.
    sharers: Vec<SequenceLayout>,
    pub(super) kv_head: usize,
    /// Row `r` of a sequence is the query of its token `r / group` of this step, of head `r % group` of
    /// those of the key head. Those of sharers follow one another.
    pub(super) rows: Range<usize>,
}

impl Tile {
    /// The sequence of a row, the number of the token among those of the sequence in this step, and the
    /// number of the head among those of the key head.
    #[inline(always)]
    pub(super) fn row(&self, row: usize, group: usize) -> (&SequenceLayout, usize, usize) {
        let row = self.rows.start + row;
        match self.sharers.get(row / group) {
            Some(sharer) => (sharer, 0, row % group),
            None => (&self.sequence, row / group, row % group),
        }
    }

    /// Bytes of a state of its rows.
    pub(super) fn state_bytes(&self, layout: &KvLayout) -> usize {
        State::bytes(layout, self.rows.len())
    }
}

/// Some partitions of a tile.
pub(super) struct Piece {
    pub(super) tile: usize,
    pub(super) partitions: Range<usize>,
    /// Where in the memory for states those of its partitions begin; `None` if it has all.
    pub(super) states: Option<usize>,
}

/// What some rows of a tile made of a partition.
#[derive(Clone, Copy)]
pub(super) struct StateRef {
    /// Where the state begins, and of how many rows it is.
    pub(super) offset: usize,
    pub(super) num_rows: usize,
    /// The first of the rows meant.
    pub(super) first_row: usize,
}

/// A tile in several pieces.
pub(super) struct Split {
    pub(super) tile: usize,
    /// Of its partitions, in order.
    pub(super) states: Vec<StateRef>,
    /// Where there is room for the sum of all.
    pub(super) total: usize,
}

/// How a step is cut into tasks.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) tiles: Vec<Tile>,
    pub(super) pieces: Vec<Piece>,
    pub(super) split: Vec<Split>,
    pub(super) state_bytes: usize,
    pub(super) work: usize,
}

/// Tasks for each thread that are enough to keep all busy to the end.
const TASKS_PER_THREAD: usize = 4;

impl Plan {
    pub(super) fn new(problem: &Problem<'_>) -> Result<Self> {
        let mut plan = Self::default();
        let shared = SharedPartition::all(problem);
        // Heads outside, so that sequences find keys that they share in the cache.
        for kv_head in 0..problem.layout().num_kv_heads {
            plan.add_head(problem, kv_head, &shared);
        }
        // About: what sequences take from shared partitions counts as theirs, too.
        let costs = plan.tiles.iter().map(|tile| match tile.sharers.is_empty() {
            true => cost(tile) * problem.partitions(tile).len(),
            false => cost(tile),
        });
        let costs: usize = costs.sum();
        let fair_cost = costs / (pool::num_threads()? * TASKS_PER_THREAD);
        for index in 0..plan.split.len() {
            plan.cut(index, problem, fair_cost);
        }
        plan.split.retain(|split| !split.states.is_empty());
        // The longest first, so that none is left over when all others are done.
        let Self { tiles, pieces, .. } = &mut plan;
        pieces.sort_by_key(|piece| {
            std::cmp::Reverse(cost(&tiles[piece.tile]) * piece.partitions.len())
        });
        plan.work = costs * PARTITION_KEYS * problem.layout().head_dim;
        Ok(plan)
    }

    /// Adds the tiles of a key head: those of shared partitions, whose work is settled, and those of each
    /// sequence, with the states that they take from the former.
    fn add_head(&mut self, problem: &Problem<'_>, kv_head: usize, shared: &[SharedPartition]) {
        let sequences = &problem.metadata.sequences;
        let mut states: HashMap<usize, Vec<StateRef>> = HashMap::new();
        for SharedPartition { partition, sharers } in shared {
            let tile = Tile {
                sequence: sequences[sharers[0]],
                sharers: sharers.iter().map(|index| sequences[*index]).collect(),
                kv_head,
                rows: 0..sharers.len() * problem.group,
            };
            let offset = self.reserve(tile.state_bytes(problem.layout()));
            for (nth, sequence) in sharers.iter().enumerate() {
                states.entry(*sequence).or_default().push(StateRef {
                    offset,
                    num_rows: tile.rows.len(),
                    first_row: nth * problem.group,
                });
            }
            self.pieces.push(Piece {
                tile: self.tiles.len(),
                partitions: *partition..partition + 1,
                states: Some(offset),
            });
            self.tiles.push(tile);
        }
        for (index, sequence) in sequences.iter().enumerate() {
            let num_rows = sequence.query_len * problem.group;
            for first in (0..num_rows).step_by(MAX_ROWS) {
                self.split.push(Split {
                    tile: self.tiles.len(),
                    states: states.remove(&index).unwrap_or_default(),
                    total: 0,
                });
                self.tiles.push(Tile {
                    sequence: *sequence,
                    sharers: Vec::new(),
                    kv_head,
                    rows: first..(first + MAX_ROWS).min(num_rows),
                });
            }
        }
    }

    fn reserve(&mut self, bytes: usize) -> usize {
        let offset = self.state_bytes;
        self.state_bytes += bytes;
        offset
    }

    /// Makes pieces of what a tile does not take from shared partitions. One in a single piece needs no
    /// states.
    fn cut(&mut self, index: usize, problem: &Problem<'_>, fair_cost: usize) {
        let Split { tile, states, .. } = &self.split[index];
        let (tile, num_shared) = (*tile, states.len());
        let all = problem.partitions(&self.tiles[tile]);
        // Shared partitions are the first ones, and those only without a window.
        let own = all.start + num_shared..all.end;
        let at_once = (fair_cost / cost(&self.tiles[tile])).max(1);
        if num_shared == 0 && own.len() <= at_once {
            self.pieces.push(Piece {
                tile,
                partitions: own,
                states: None,
            });
            return;
        }
        let num_rows = self.tiles[tile].rows.len();
        let state_bytes = self.tiles[tile].state_bytes(problem.layout());
        for first in own.clone().step_by(at_once) {
            let partitions = first..(first + at_once).min(own.end);
            let offset = self.reserve(partitions.len() * state_bytes);
            let states = (0..partitions.len()).map(|nth| StateRef {
                offset: offset + nth * state_bytes,
                num_rows,
                first_row: 0,
            });
            self.split[index].states.extend(states);
            self.pieces.push(Piece {
                tile,
                partitions,
                states: Some(offset),
            });
        }
        self.split[index].total = self.reserve(state_bytes);
    }
}

/// What a partition of a tile costs: few rows wait for memory as long as a few more.
fn cost(tile: &Tile) -> usize {
    tile.rows.len().next_multiple_of(16)
}

/// A partition whose blocks several sequences share, as those do that begin with the same prompt. Its
/// keys are read once for all of them.
struct SharedPartition {
    partition: usize,
    /// Indices of sequences, two at the least.
    sharers: Vec<usize>,
}

impl SharedPartition {
    /// Those of all sequences of one token, by partition.
    fn all(problem: &Problem<'_>) -> Vec<Self> {
        let (block_size, group) = (problem.layout().block_size, problem.group);
        let is_cut_at_blocks =
            block_size.is_multiple_of(STRIP) && PARTITION_KEYS.is_multiple_of(block_size);
        let most = MAX_ROWS / group;
        if problem.window.is_some() || !is_cut_at_blocks || most < 2 {
            return Vec::new();
        }
        let sequences = &problem.metadata.sequences;
        let decoding = (0..sequences.len()).filter(|index| sequences[*index].query_len == 1);
        let mut sharing = vec![decoding.collect::<Vec<_>>()];
        let mut found = Vec::new();
        for partition in 0.. {
            let blocks = PARTITION_KEYS / block_size;
            let blocks = partition * blocks..(partition + 1) * blocks;
            // Whoever shares a partition shares all before it.
            let mut still_sharing = Vec::new();
            for candidates in sharing {
                let mut by_blocks: HashMap<&[u32], Vec<usize>> = HashMap::new();
                for index in candidates {
                    let sequence = &sequences[index];
                    if sequence.total_len() >= (partition + 1) * PARTITION_KEYS {
                        let table = problem.metadata.block_table(sequence);
                        by_blocks
                            .entry(&table[blocks.clone()])
                            .or_default()
                            .push(index);
                    }
                }
                still_sharing.extend(by_blocks.into_values().filter(|group| group.len() > 1));
            }
            if still_sharing.is_empty() {
                break;
            }
            // In the order of the batch, for a plan that is the same each time.
            still_sharing.sort();
            for sharers in &still_sharing {
                let equal = sharers.len().div_ceil(sharers.len().div_ceil(most));
                found.extend(sharers.chunks(equal).map(|sharers| Self {
                    partition,
                    sharers: sharers.to_vec(),
                }));
            }
            sharing = still_sharing;
        }
        found
    }
}

//! Memory that each thread keeps from one task to the next.

use std::cell::RefCell;

use super::aligned::CacheLine;

thread_local! {
    static OF_PANELS: Lines = const { RefCell::new(Vec::new()) };
    static OF_TASK: Lines = const { RefCell::new(Vec::new()) };
    static OF_OPERATION: Lines = const { RefCell::new(Vec::new()) };
}

type Lines = RefCell<Vec<CacheLine>>;

/// Bytes that `count` elements take, in whole cache lines.
pub(super) const fn lines_of<T>(count: usize) -> usize {
    (count * size_of::<T>()).next_multiple_of(64)
}

/// Calls `run` with memory of this thread for one task, `bytes` of it at the least, on a cache line,
/// holding numbers of no meaning.
pub(super) fn for_task<R>(bytes: usize, run: impl FnOnce(*mut u8) -> R) -> R {
    OF_TASK.with(|lines| with(lines, bytes, run))
}

/// The same for panels that a task widens.
pub(super) fn for_panels<R>(bytes: usize, run: impl FnOnce(*mut u8) -> R) -> R {
    OF_PANELS.with(|lines| with(lines, bytes, run))
}

/// The same for what all tasks of an operation share.
pub(super) fn for_operation<R>(bytes: usize, run: impl FnOnce(*mut u8) -> R) -> R {
    OF_OPERATION.with(|lines| with(lines, bytes, run))
}

fn with<R>(lines: &Lines, bytes: usize, run: impl FnOnce(*mut u8) -> R) -> R {
    let mut lines = lines.borrow_mut();
    let needed = bytes.div_ceil(64);
    if lines.len() < needed {
        // What it held is of no meaning, so it need not be copied.
        lines.clear();
        lines.resize(needed, CacheLine::ZERO);
    }
    run(lines.as_mut_ptr().cast())
}

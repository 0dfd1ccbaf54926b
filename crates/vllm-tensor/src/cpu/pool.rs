use std::num::NonZero;
use std::sync::{Arc, PoisonError, RwLock};

use rayon::ThreadPool;
use rayon::prelude::*;

use crate::{Error, Result};

/// The threads of this crate's kernels, apart from rayon's global pool. Results never depend on it.
static POOL: RwLock<Option<Arc<ThreadPool>>> = RwLock::new(None);

/// Below this many multiplications an operation is over before another thread has woken up.
const MIN_PARALLEL_WORK: usize = 1 << 17;

/// Sets how many threads CPU operations use from now on; 0 is one per available core, the default.
///
/// # Errors
/// The operating system refuses to start them.
pub fn set_num_threads(num_threads: usize) -> Result<()> {
    let pool = start(num_threads)?;
    *POOL.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(pool));
    Ok(())
}

/// How many threads CPU operations use.
pub fn num_threads() -> usize {
    current().map_or(1, |pool| pool.current_num_threads())
}

/// Runs `task(0)` to `task(num_tasks - 1)` in any order, on several threads if the `work` of all of
/// them, in multiplications, is worth it.
pub(super) fn for_each(
    num_tasks: usize,
    work: usize,
    task: impl Fn(usize) + Send + Sync,
) -> Result<()> {
    if num_tasks > 1 && work >= MIN_PARALLEL_WORK {
        let pool = current()?;
        if pool.current_num_threads() > 1 {
            let tasks = (0..num_tasks).into_par_iter().with_max_len(1);
            pool.install(|| tasks.for_each(task));
            return Ok(());
        }
    }
    (0..num_tasks).for_each(task);
    Ok(())
}

fn current() -> Result<Arc<ThreadPool>> {
    if let Some(pool) = POOL.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
        return Ok(pool.clone());
    }
    let mut pool = POOL.write().unwrap_or_else(PoisonError::into_inner);
    match pool.as_ref() {
        Some(pool) => Ok(pool.clone()),
        None => Ok(pool.insert(Arc::new(start(0)?)).clone()),
    }
}

fn start(num_threads: usize) -> Result<ThreadPool> {
    let num_threads = match num_threads {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get),
        given => given,
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(num_threads)
        .thread_name(|index| format!("vllm-cpu-{index}"))
        .build()
        .map_err(|e| Error::Threads(e.to_string()))
}

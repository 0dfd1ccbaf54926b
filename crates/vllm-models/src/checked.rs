use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::deferred::Load;
use crate::{Error, Model, Result};

/// A model that is put together and fits its checkpoint, tensor by tensor, but whose weights have not
/// been read yet.
pub struct CheckedModel {
    model: Box<dyn Model>,
    loads: Vec<Box<dyn Load>>,
    num_threads: usize,
}

/// How far [`CheckedModel::load`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of weights that are in memory, as they are kept there.
    pub loaded_bytes: u64,
    /// Bytes of all weights.
    pub total_bytes: u64,
}

impl CheckedModel {
    pub(crate) fn from_parts(
        model: Box<dyn Model>,
        loads: Vec<Box<dyn Load>>,
        is_cpu: bool,
    ) -> Self {
        // Copies to one GPU would only wait for each other.
        let num_threads = match is_cpu {
            true => vllm_tensor::num_threads(),
            false => 1,
        };
        Self {
            model,
            loads,
            num_threads,
        }
    }

    /// Bytes that the weights will take, but for vectors, which are small.
    pub fn weight_bytes(&self) -> u64 {
        self.loads.iter().map(|load| load.num_bytes()).sum()
    }

    /// Reads the weights, telling `progress` now and then, from any thread.
    ///
    /// # Errors
    /// A file that cannot be read, or no memory.
    pub fn load(self, progress: &(dyn Fn(LoadProgress) + Sync)) -> Result<Box<dyn Model>> {
        let total_bytes = self.weight_bytes();
        let loaded_bytes = AtomicU64::new(0);
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let work = || {
            while let Some(load) = self.loads.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = load.load() {
                    // The others stop, too.
                    next.store(self.loads.len(), Ordering::Relaxed);
                    let mut failure = failure.lock().unwrap_or_else(PoisonError::into_inner);
                    failure.get_or_insert(error);
                    return;
                }
                let before = loaded_bytes.fetch_add(load.num_bytes(), Ordering::Relaxed);
                progress(LoadProgress {
                    loaded_bytes: before + load.num_bytes(),
                    total_bytes,
                });
            }
        };
        let num_threads = self.num_threads.min(self.loads.len());
        thread::scope(|scope| {
            for _ in 1..num_threads {
                thread::Builder::new()
                    .name("vllm-load".to_owned())
                    .spawn_scoped(scope, work)
                    .map_err(Error::Threads)?;
            }
            work();
            Ok::<_, Error>(())
        })?;
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(self.model),
        }
    }
}

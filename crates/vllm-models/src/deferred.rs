//! Parts of a model that are built around before their weights are read.

use std::ops::Deref;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::{Error, Result};

/// A value that [`Deferred::load`] makes and that can be used from then on.
///
/// A model is first put together from these, which checks every name and shape; then all of them are
/// loaded, and only then does the model leave this crate.
pub(crate) struct Deferred<T>(Arc<Cell<T>>);

type Make<T> = Box<dyn FnOnce() -> Result<T> + Send>;

struct Cell<T> {
    value: OnceLock<T>,
    make: Mutex<Option<Make<T>>>,
    num_bytes: u64,
}

impl<T> Deferred<T> {
    /// A value that `make` will read from `num_bytes` of weights.
    pub(crate) fn new(num_bytes: u64, make: impl FnOnce() -> Result<T> + Send + 'static) -> Self {
        Self(Arc::new(Cell {
            value: OnceLock::new(),
            make: Mutex::new(Some(Box::new(make))),
            num_bytes,
        }))
    }

    /// Makes the value unless that has been done, or waits for whoever does it.
    pub(crate) fn load(&self) -> Result<&T> {
        let mut make = self.0.make.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(make) = make.take() {
            let _ = self.0.value.set(make()?);
        }
        self.0.value.get().ok_or(Error::NotLoaded)
    }
}

impl<T> Clone for Deferred<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Deferred<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self.0.value.get() {
            Some(value) => value,
            None => unreachable!("a model is handed out when all of its parts are loaded"),
        }
    }
}

/// A [`Deferred`] of any type.
pub(crate) trait Load: Send + Sync {
    fn load(&self) -> Result<()>;

    /// Bytes of the weights that it is made of.
    fn num_bytes(&self) -> u64;
}

impl<T: Send + Sync> Load for Deferred<T> {
    fn load(&self) -> Result<()> {
        Deferred::load(self).map(drop)
    }

    fn num_bytes(&self) -> u64 {
        self.0.num_bytes
    }
}

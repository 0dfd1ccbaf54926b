use std::ops::ControlFlow;

use crate::deferred::Load;
use crate::loader::Roles;
use crate::{Error, Model, Result, WeightRole};

/// A model that is put together and fits its checkpoint, tensor by tensor, but whose weights have not
/// been read yet.
pub struct CheckedModel {
    model: Box<dyn Model>,
    loads: Vec<Box<dyn Load>>,
    roles: Roles,
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
        roles: Roles,
    ) -> Self {
        Self {
            model,
            loads,
            roles,
        }
    }

    /// What the matrix `name` of the checkpoint is for; `None` for all that is no linear layer of the
    /// usual kind and no embeddings.
    pub fn role(&self, name: &str) -> Option<WeightRole> {
        self.roles.get(name).copied()
    }

    /// Bytes that the weights will take, but for vectors, which are small.
    pub fn weight_bytes(&self) -> u64 {
        self.loads.iter().map(|load| load.num_bytes()).sum()
    }

    /// Reads the weights one after the other, each on all threads, and tells `progress` after each,
    /// which may break off.
    ///
    /// # Errors
    /// A file that cannot be read, no memory, or [`Error::Stopped`].
    pub fn load(
        self,
        progress: &mut dyn FnMut(LoadProgress) -> ControlFlow<()>,
    ) -> Result<Box<dyn Model>> {
        let total_bytes = self.weight_bytes();
        let mut loaded_bytes = 0;
        for load in self.loads {
            load.load()?;
            loaded_bytes += load.num_bytes();
            let flow = progress(LoadProgress {
                loaded_bytes,
                total_bytes,
            });
            if flow.is_break() {
                return Err(Error::Stopped);
            }
        }
        Ok(self.model)
    }
}

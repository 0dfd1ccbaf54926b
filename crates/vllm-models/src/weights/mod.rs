//! Checkpoint files: which ones to read, and the tensors inside them.

mod dummy;
mod format;
mod pickle;
mod pytorch;
mod safetensors;
mod select;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use vllm_tensor::{DType, Device, Tensor, WeightRows};

pub use format::LoadFormat;

use crate::{Error, Result};

/// The bytes of a file: mapped, owned or compiled in.
pub type FileBuffer = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Where a model's weights come from.
pub enum Weights {
    /// From the files of a checkpoint.
    Files(WeightFiles),
    /// From nowhere: small random numbers, the same on every run.
    Dummy,
}

impl From<WeightFiles> for Weights {
    fn from(files: WeightFiles) -> Self {
        Self::Files(files)
    }
}

impl Weights {
    /// The tensor `name`, checked by [`WeightFiles::check`], as `dtype` on `device`.
    pub(crate) fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        match self {
            Self::Files(files) => files.tensor(name, shape, dtype, device),
            Self::Dummy => {
                let rows = dummy::DummyRows::new(name, 1, shape.iter().product(), dtype);
                Ok(rows.tensor(shape)?.to_device(device)?)
            }
        }
    }

    /// The rows of the matrix `name`, `[num_rows, columns]`, checked by [`WeightFiles::check`]; made-up
    /// ones are in `dtype`.
    pub(crate) fn rows(
        &self,
        name: &str,
        num_rows: usize,
        columns: usize,
        dtype: DType,
    ) -> Result<Box<dyn WeightRows + '_>> {
        Ok(match self {
            Self::Files(files) => {
                let (dtype, bytes) = files.find(name, &[num_rows, columns])?;
                Box::new(FileRows {
                    bytes,
                    dtype,
                    num_rows,
                    row_len: columns * dtype.size_in_bytes(),
                })
            }
            Self::Dummy => Box::new(dummy::DummyRows::new(name, num_rows, columns, dtype)),
        })
    }

    /// Says that the tensor `name` will not be read again.
    pub(crate) fn release(&self, name: &str) {
        if let Self::Files(files) = self
            && let Some(release) = &files.release
            && let Some(StoredTensor { file, info }) = files.tensors.get(name)
            && let Some((_, buffer)) = files.files.get(*file)
            && let Some(bytes) = buffer.as_ref().as_ref().get(info.bytes.clone())
        {
            release(bytes);
        }
    }

    pub(crate) fn files(&self) -> Option<&WeightFiles> {
        match self {
            Self::Files(files) => Some(files),
            Self::Dummy => None,
        }
    }
}

/// The rows of a matrix in a file.
struct FileRows<'a> {
    bytes: &'a [u8],
    dtype: DType,
    num_rows: usize,
    /// In bytes.
    row_len: usize,
}

impl WeightRows for FileRows<'_> {
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn num_rows(&self) -> usize {
        self.num_rows
    }

    fn row(&self, index: usize) -> &[u8] {
        &self.bytes[index * self.row_len..][..self.row_len]
    }
}

/// The tensors of a checkpoint by name, read from their files when asked for.
pub struct WeightFiles {
    files: Vec<(String, FileBuffer)>,
    tensors: BTreeMap<String, StoredTensor>,
    release: Option<Release>,
}

/// Told of bytes of a file that were read for the last time.
type Release = Box<dyn Fn(&[u8]) + Send + Sync>;

/// Where a tensor lies.
struct StoredTensor {
    /// Index into `files`.
    file: usize,
    info: TensorInfo,
}

/// What a file says of one of its tensors. The elements are contiguous, the last dimension fastest.
#[derive(Debug)]
struct TensorInfo {
    /// `Err` holds the name of a dtype that is not read.
    dtype: Result<DType, String>,
    shape: Vec<usize>,
    /// Within the file; its length fits the shape and dtype.
    bytes: Range<usize>,
}

impl WeightFiles {
    /// Chooses the weight files among `names`, the files of a model folder, and opens them.
    ///
    /// Safetensors come before PyTorch files unless `format` says which, and an index decides which
    /// shards belong.
    ///
    /// # Errors
    /// No weight file, a shard that is missing, and whatever [`WeightFiles::new`] refuses.
    pub fn open<E>(
        names: &[String],
        format: LoadFormat,
        mut open: impl FnMut(&str) -> Result<FileBuffer, E>,
    ) -> Result<Self>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut open = |name: &str| {
            open(name).map_err(|e| Error::Open {
                file: name.to_owned(),
                source: e.into(),
            })
        };
        let selection = select::weight_files(names, format, &mut open)?;
        let files = selection.files.into_iter().map(|name| {
            let buffer = open(&name)?;
            Ok((name, buffer))
        });
        let weights = Self::new(files.collect::<Result<_>>()?)?;
        for (tensor, file) in selection.indexed_tensors {
            if !weights.tensors.contains_key(&tensor) {
                return Err(Error::File {
                    file,
                    message: format!("tensor '{tensor}' is missing, which the index places here"),
                });
            }
        }
        Ok(weights)
    }

    /// Reads the headers of weight files given as name and bytes, shards in any order.
    ///
    /// # Errors
    /// A damaged file, a form that is not read, or a tensor that two files hold.
    pub fn new(files: Vec<(String, FileBuffer)>) -> Result<Self> {
        let mut tensors = BTreeMap::<String, StoredTensor>::new();
        for (file, (file_name, buffer)) in files.iter().enumerate() {
            let bytes = buffer.as_ref().as_ref();
            let read = if file_name.ends_with(".safetensors") {
                safetensors::read_header(bytes)
            } else {
                pytorch::read_header(bytes)
            };
            let file_error = |message| Error::File {
                file: file_name.clone(),
                message,
            };
            for (name, info) in read.map_err(file_error)? {
                if let Some(other) = tensors.get(&name) {
                    let other = &files[other.file].0;
                    return Err(file_error(format!("tensor '{name}' is also in {other}")));
                }
                tensors.insert(name, StoredTensor { file, info });
            }
        }
        Ok(Self {
            files,
            tensors,
            release: None,
        })
    }

    /// Has `release` called with the bytes of each matrix that was read for the last time, so that a
    /// mapped checkpoint and the model made of it need not both be in memory.
    #[must_use]
    pub fn on_release(mut self, release: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        self.release = Some(Box::new(release));
        self
    }

    /// Names of all tensors, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The dtype that most of the checkpoint's elements have, where that is a floating-point one.
    pub fn dtype(&self) -> Option<DType> {
        let size_of = |dtype: DType| -> usize {
            let infos = self.tensors.values().map(|tensor| &tensor.info);
            infos
                .filter(|info| info.dtype == Ok(dtype))
                .map(|info| info.bytes.len())
                .sum()
        };
        [DType::F32, DType::F16, DType::BF16]
            .into_iter()
            .map(|dtype| (size_of(dtype) / dtype.size_in_bytes(), dtype))
            .filter(|(elements, _)| *elements > 0)
            .max_by_key(|(elements, _)| *elements)
            .map(|(_, dtype)| dtype)
    }

    /// Makes sure that the tensor `name` can be read.
    ///
    /// # Errors
    /// No such tensor, another shape than `shape`, or elements that are no floating-point numbers.
    pub(crate) fn check(&self, name: &str, shape: &[usize]) -> Result<()> {
        self.find(name, shape).map(drop)
    }

    /// Reads the tensor `name` as `dtype` onto `device`.
    ///
    /// # Errors
    /// As [`WeightFiles::check`].
    pub(crate) fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        let (stored_dtype, bytes) = self.find(name, shape)?;
        let stored = Tensor::from_raw_buffer(bytes, stored_dtype, shape, &Device::Cpu)?;
        Ok(stored.to_dtype(dtype)?.to_device(device)?)
    }

    /// The dtype and the bytes of the tensor `name`.
    fn find(&self, name: &str, shape: &[usize]) -> Result<(DType, &[u8])> {
        let Some(StoredTensor { file, info }) = self.tensors.get(name) else {
            return Err(Error::MissingTensor {
                tensor: name.to_owned(),
                files: self.file_names(),
                expected: shape.to_vec(),
            });
        };
        let (file_name, buffer) = &self.files[*file];
        if info.shape != shape {
            return Err(Error::WrongShape {
                file: file_name.clone(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                actual: info.shape.clone(),
            });
        }
        let stored_dtype = info.dtype.clone().map_err(|actual| Error::WrongDType {
            file: file_name.clone(),
            tensor: name.to_owned(),
            actual,
        })?;
        let file_bytes: &[u8] = buffer.as_ref().as_ref();
        let bytes = file_bytes.get(info.bytes.clone());
        let bytes = bytes.ok_or_else(|| Error::File {
            file: file_name.clone(),
            message: "the file became shorter while it was read".to_owned(),
        })?;
        Ok((stored_dtype, bytes))
    }

    /// Whether two tensors are there and equal in every bit.
    pub(crate) fn are_equal(&self, name: &str, other: &str) -> bool {
        let view = |name: &str| {
            let StoredTensor { file, info } = self.tensors.get(name)?;
            let (_, buffer) = self.files.get(*file)?;
            let file_bytes: &[u8] = buffer.as_ref().as_ref();
            Some((
                &info.dtype,
                &info.shape,
                file_bytes.get(info.bytes.clone())?,
            ))
        };
        view(name).is_some_and(|tensor| view(other) == Some(tensor))
    }

    /// The files' names, for messages.
    pub(crate) fn file_names(&self) -> String {
        let names: Vec<_> = self.files.iter().map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    }
}

/// The number of bytes of a tensor, unless it is beyond all measure.
fn byte_len(shape: &[usize], element_size: usize) -> Option<usize> {
    shape
        .iter()
        .try_fold(element_size, |product, size| product.checked_mul(*size))
}

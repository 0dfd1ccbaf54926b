//! Checkpoint files: which ones to read, and the tensors inside them.

mod dummy;
mod export;
mod format;
mod narrow;
mod packed;
mod pickle;
mod pytorch;
mod quantize;
mod safetensors;
mod select;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use vllm_tensor::{DType, Device, Tensor, WeightRows};

pub use self::export::{NumberRows, quantize_row_to_int8};
pub use self::format::LoadFormat;
pub use self::narrow::{NarrowWeight, ScaledRows, WeightRole};
pub(crate) use self::packed::scheme::check as check_quantization;
use self::packed::{Kind, PackedTensor, Piece};
pub use self::quantize::{LoadQuantization, Quantization, quantize_row_to_fp8};
pub use self::select::gguf_files;
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

    /// The rows of the matrix `name`, `[num_rows, columns]`, checked by [`WeightFiles::check`]; those
    /// that are put together now or made up are in `dtype`.
    pub(crate) fn rows(
        &self,
        name: &str,
        num_rows: usize,
        columns: usize,
        dtype: DType,
    ) -> Result<Box<dyn WeightRows + '_>> {
        Ok(match self {
            Self::Files(files) => files.rows(name, num_rows, columns, dtype)?,
            Self::Dummy => Box::new(dummy::DummyRows::new(name, num_rows, columns, dtype)),
        })
    }

    /// Says that the tensor `name` will not be read again.
    pub(crate) fn release(&self, name: &str) {
        if let Self::Files(files) = self {
            files.release(name);
        }
    }

    /// As [`WeightFiles::quantize`].
    #[must_use]
    pub fn quantize(self, quantization: LoadQuantization) -> Self {
        match self {
            Self::Files(files) => Self::Files(files.quantize(quantization)),
            Self::Dummy => self,
        }
    }

    /// As [`WeightFiles::unpack`].
    pub(crate) fn unpack(self, quantization_config: &serde_json::Value) -> Result<Self> {
        match self {
            Self::Files(files) => Ok(Self::Files(files.unpack(quantization_config)?)),
            Self::Dummy => Ok(self),
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
    bytes: Cow<'a, [u8]>,
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
    /// Weights that are put together from what is stored.
    packed: BTreeMap<String, PackedTensor>,
    /// What plain weights become.
    quantization: LoadQuantization,
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

impl StoredTensor {
    /// `None` for elements that no packed weight is made of.
    fn as_piece(&self, name: &str) -> Option<Piece> {
        let kind = match &self.info.dtype {
            Ok(DType::F32) => Kind::F32,
            Ok(DType::F16) => Kind::F16,
            Ok(DType::BF16) => Kind::BF16,
            Ok(_) => return None,
            Err(name) => Kind::from_name(name)?,
        };
        Some(Piece {
            name: name.to_owned(),
            file: self.file,
            bytes: self.info.bytes.clone(),
            shape: self.info.shape.clone(),
            kind,
        })
    }
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
        if is_gguf(&files) {
            let packed = packed::read_gguf(&files)?.into_iter().collect();
            return Ok(Self {
                files,
                tensors,
                packed,
                quantization: LoadQuantization::default(),
                release: None,
            });
        }
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
        let packed = BTreeMap::new();
        Ok(Self {
            files,
            tensors,
            release: None,
            packed,
            quantization: LoadQuantization::default(),
        })
    }

    /// Has `release` called with the bytes of each matrix that was read for the last time, so that a
    /// mapped checkpoint and the model made of it need not both be in memory.
    #[must_use]
    pub fn on_release(mut self, release: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        self.release = Some(Box::new(release));
        self
    }

    /// The checkpoint with its quantized weights put together, as the `quantization_config` of its
    /// configuration says; `Null` says that there are none.
    ///
    /// # Errors
    /// A scheme that is not read; pieces that are missing or do not fit each other.
    pub fn unpack(mut self, quantization_config: &serde_json::Value) -> Result<Self> {
        if quantization_config.is_null() || !self.packed.is_empty() {
            return Ok(self);
        }
        let mut pieces: BTreeMap<String, Piece> = self
            .tensors
            .iter()
            .filter_map(|(name, stored)| Some((name.clone(), stored.as_piece(name)?)))
            .collect();
        let known: Vec<String> = pieces.keys().cloned().collect();
        self.packed = packed::scheme::assemble(quantization_config, &mut pieces, &self.files)?;
        for name in known {
            if !pieces.contains_key(&name) {
                self.tensors.remove(&name);
            }
        }
        Ok(self)
    }

    /// The same with weights to be quantized while they are loaded, as far as they are plain numbers and a
    /// CPU runs them. The routers of experts stay as they are.
    #[must_use]
    pub fn quantize(self, quantization: LoadQuantization) -> Self {
        Self {
            quantization,
            ..self
        }
    }

    /// Says that the tensor `name` will not be read again.
    pub fn release(&self, name: &str) {
        let Some(release) = &self.release else { return };
        let stored = self.tensors.get(name);
        let stored = stored.map(|stored| (stored.file, stored.info.bytes.clone()));
        let pieces = self.packed.get(name).map(PackedTensor::pieces);
        for (file, range) in stored.into_iter().chain(pieces.into_iter().flatten()) {
            if let Some((_, buffer)) = self.files.get(file)
                && let Some(bytes) = buffer.as_ref().as_ref().get(range)
            {
                release(bytes);
            }
        }
    }

    /// Names of all tensors.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        let names = self.tensors.keys().chain(self.packed.keys());
        names.map(String::as_str)
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
        match self.packed.get(name) {
            Some(packed) => self.check_shape(name, packed.file, &packed.shape, shape),
            None => self.find(name, shape).map(drop),
        }
    }

    /// Reads the tensor `name` as `dtype` onto `device`.
    ///
    /// # Errors
    /// What `check` refuses.
    pub fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        dtype: DType,
        device: &Device,
    ) -> Result<Tensor> {
        if let Some(packed) = self.packed.get(name) {
            self.check_shape(name, packed.file, &packed.shape, shape)?;
            return packed.read(&self.files, dtype, device);
        }
        let (stored_dtype, bytes) = self.find(name, shape)?;
        let stored = Tensor::from_raw_buffer(bytes, stored_dtype, shape, &Device::Cpu)?;
        Ok(stored.to_dtype(dtype)?.to_device(device)?)
    }

    fn rows(
        &self,
        name: &str,
        num_rows: usize,
        columns: usize,
        dtype: DType,
    ) -> Result<Box<dyn WeightRows + '_>> {
        let (dtype, bytes) = match self.packed.get(name) {
            Some(packed) => (dtype, Cow::Owned(packed.read_bytes(&self.files, dtype)?)),
            None => {
                let (dtype, bytes) = self.find(name, &[num_rows, columns])?;
                (dtype, Cow::Borrowed(bytes))
            }
        };
        Ok(Box::new(FileRows {
            bytes,
            dtype,
            num_rows,
            row_len: columns * dtype.size_in_bytes(),
        }))
    }

    /// The dtype and the bytes of the stored tensor `name`.
    fn find(&self, name: &str, shape: &[usize]) -> Result<(DType, &[u8])> {
        let Some(StoredTensor { file, info }) = self.tensors.get(name) else {
            return Err(Error::MissingTensor {
                tensor: name.to_owned(),
                files: self.file_names(),
                expected: shape.to_vec(),
            });
        };
        let (file_name, buffer) = &self.files[*file];
        self.check_shape(name, *file, &info.shape, shape)?;
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

    fn check_shape(
        &self,
        name: &str,
        file: usize,
        actual: &[usize],
        expected: &[usize],
    ) -> Result<()> {
        if actual == expected {
            return Ok(());
        }
        Err(Error::WrongShape {
            file: self.files[file].0.clone(),
            tensor: name.to_owned(),
            expected: expected.to_vec(),
            actual: actual.to_vec(),
        })
    }

    /// Whether two tensors are there and equal in every bit.
    pub fn are_equal(&self, name: &str, other: &str) -> bool {
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

fn is_gguf(files: &[(String, FileBuffer)]) -> bool {
    let is_gguf = |buffer: &FileBuffer| vllm_gguf::is_gguf(buffer.as_ref().as_ref());
    !files.is_empty() && files.iter().all(|(_, buffer)| is_gguf(buffer))
}

/// The number of bytes of a tensor, unless it is beyond all measure.
fn byte_len(shape: &[usize], element_size: usize) -> Option<usize> {
    shape
        .iter()
        .try_fold(element_size, |product, size| product.checked_mul(*size))
}

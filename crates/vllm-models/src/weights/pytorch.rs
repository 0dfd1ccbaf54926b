use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::ops::Range;

use vllm_tensor::DType;
use zip::{CompressionMethod, ZipArchive};

use super::pickle::{Object, ObjectId, Pickle};
use super::{TensorInfo, byte_len};

/// The tensors of a `torch.save`d state dict. The error is a sentence without the file's name.
///
/// The file is a zip archive of a pickle, `data.pkl`, and one uncompressed entry of raw little-endian
/// elements, `data/KEY`, for each storage.
pub(super) fn read_header(bytes: &[u8]) -> Result<Vec<(String, TensorInfo)>, String> {
    if !bytes.starts_with(b"PK") {
        return Err(
            "not a zip archive: files written by PyTorch before version 1.6 are not read; \
                    load it in PyTorch and save it again, or convert it to safetensors"
                .to_owned(),
        );
    }
    let archive = Archive::read(bytes)?;
    let pickle = Pickle::read(&archive.pickle)?;
    let Object::Dict(entries) = pickle.root() else {
        return Err("it holds no dict of tensors".to_owned());
    };
    entries
        .iter()
        .map(|(key, value)| {
            let Object::Text(name) = pickle.get(*key) else {
                return Err("a tensor's name is not text".to_owned());
            };
            let info = tensor_info(&pickle, *value, &archive)
                .map_err(|message| format!("tensor '{name}': {message}"))?;
            Ok((name.clone(), info))
        })
        .collect()
}

struct Archive {
    pickle: Vec<u8>,
    /// Key of a storage → its bytes within the file.
    storages: HashMap<String, Range<usize>>,
}

/// No pickle of tensor names and shapes comes near this.
const MAX_PICKLE_LEN: u64 = 256 << 20;

impl Archive {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let damaged = |e| format!("not a complete zip archive ({e}); fetch it again");
        let mut zip = ZipArchive::new(Cursor::new(bytes)).map_err(damaged)?;
        let mut pickle = None;
        let mut storages = HashMap::new();
        for index in 0..zip.len() {
            let mut entry = zip.by_index(index).map_err(damaged)?;
            let path = entry.name().map_err(damaged)?.into_owned();
            // All entries lie in one folder, whose name depends on how the file was called.
            let Some((_, name)) = path.split_once('/') else {
                continue;
            };
            if name == "data.pkl" {
                let mut data = Vec::new();
                entry
                    .by_ref()
                    .take(MAX_PICKLE_LEN)
                    .read_to_end(&mut data)
                    .map_err(|e| e.to_string())?;
                pickle = Some(data);
            } else if name == "byteorder" {
                let mut order = String::new();
                entry
                    .by_ref()
                    .take(16)
                    .read_to_string(&mut order)
                    .map_err(|e| e.to_string())?;
                if order != "little" {
                    return Err(format!("its byte order is '{order}', expected 'little'"));
                }
            } else if let Some(key) = name.strip_prefix("data/") {
                let stored = entry.compression() == CompressionMethod::Stored;
                let range = entry.data_start().filter(|_| stored).and_then(|start| {
                    let start = usize::try_from(start).ok()?;
                    let end = start.checked_add(usize::try_from(entry.size()).ok()?)?;
                    (end <= bytes.len()).then_some(start..end)
                });
                let range = range.ok_or_else(|| format!("entry '{path}' is not stored plainly"))?;
                storages.insert(key.to_owned(), range);
            }
        }
        let pickle =
            pickle.ok_or("the archive has no data.pkl: it was not written by torch.save")?;
        Ok(Self { pickle, storages })
    }
}

fn tensor_info(pickle: &Pickle, value: ObjectId, archive: &Archive) -> Result<TensorInfo, String> {
    let Object::Call {
        function,
        arguments,
    } = pickle.get(value)
    else {
        return Err("it is no tensor".to_owned());
    };
    // A parameter wraps its tensor. It is looked into once: parameters of parameters do not exist.
    let arguments = match (
        function.as_str(),
        arguments.first().map(|id| pickle.get(*id)),
    ) {
        ("torch._utils._rebuild_parameter", Some(Object::Call { arguments, .. })) => arguments,
        _ => arguments,
    };
    let [storage, offset, shape, strides, ..] = arguments.as_slice() else {
        return Err("it has too few arguments".to_owned());
    };
    let storage = read_storage(pickle, *storage, archive)?;
    let offset = size(pickle, *offset)?;
    let shape = sizes(pickle, *shape)?;
    if !is_contiguous(&shape, &sizes(pickle, *strides)?) {
        return Err("its elements are not contiguous; save it again with .contiguous()".to_owned());
    }
    let element_size = storage.element_size;
    let range = byte_len(&shape, element_size).and_then(|len| {
        let start = storage
            .bytes
            .start
            .checked_add(offset.checked_mul(element_size)?)?;
        let end = start.checked_add(len)?;
        (end <= storage.bytes.end).then_some(start..end)
    });
    let bytes = range.ok_or_else(|| {
        format!(
            "shape {shape:?} at {offset} goes beyond its storage of {} bytes",
            storage.bytes.len()
        )
    })?;
    Ok(TensorInfo {
        dtype: storage.dtype,
        shape,
        bytes,
    })
}

struct Storage {
    dtype: Result<DType, String>,
    element_size: usize,
    bytes: Range<usize>,
}

/// Follows `('storage', class, key, device, number of elements)`.
fn read_storage(pickle: &Pickle, id: ObjectId, archive: &Archive) -> Result<Storage, String> {
    let malformed = || "its storage is malformed".to_owned();
    let Object::Persistent(id) = pickle.get(id) else {
        return Err(malformed());
    };
    let Object::Tuple(parts) = pickle.get(*id) else {
        return Err(malformed());
    };
    let [_, class, key, ..] = parts.as_slice() else {
        return Err(malformed());
    };
    let (Object::Global(class), Object::Text(key)) = (pickle.get(*class), pickle.get(*key)) else {
        return Err(malformed());
    };
    let (dtype, element_size) = match class.as_str() {
        "torch.FloatStorage" => (Ok(DType::F32), 4),
        "torch.HalfStorage" => (Ok(DType::F16), 2),
        "torch.BFloat16Storage" => (Ok(DType::BF16), 2),
        "torch.DoubleStorage" => (Ok(DType::F64), 8),
        "torch.LongStorage" => (Err("int64".to_owned()), 8),
        "torch.IntStorage" => (Err("int32".to_owned()), 4),
        "torch.ShortStorage" => (Err("int16".to_owned()), 2),
        "torch.CharStorage" => (Err("int8".to_owned()), 1),
        "torch.ByteStorage" => (Err("uint8".to_owned()), 1),
        "torch.BoolStorage" => (Err("bool".to_owned()), 1),
        other => return Err(format!("its storage is a '{other}', which is not known")),
    };
    let bytes = archive
        .storages
        .get(key)
        .ok_or_else(|| format!("the entry data/{key} is missing"))?;
    Ok(Storage {
        dtype,
        element_size,
        bytes: bytes.clone(),
    })
}

fn size(pickle: &Pickle, id: ObjectId) -> Result<usize, String> {
    match pickle.get(id) {
        Object::Int(value) => usize::try_from(*value).map_err(|_| format!("{value} is no size")),
        _ => Err("a size is no integer".to_owned()),
    }
}

fn sizes(pickle: &Pickle, id: ObjectId) -> Result<Vec<usize>, String> {
    match pickle.get(id) {
        Object::Tuple(items) => items.iter().map(|item| size(pickle, *item)).collect(),
        _ => Err("a shape is no tuple".to_owned()),
    }
}

fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1usize;
    shape.len() == strides.len()
        && shape.iter().zip(strides).rev().all(|(size, stride)| {
            let fits = *size <= 1 || *stride == expected;
            expected = expected.saturating_mul(*size);
            fits
        })
}

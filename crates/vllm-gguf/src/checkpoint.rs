use std::collections::BTreeMap;

use crate::{BlockType, Error, Header, Metadata, Result, TensorInfo};

/// The files of one model, their headers read and joined.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Of the first file.
    metadata: Metadata,
    tensors: Vec<CheckpointTensor>,
    /// Tensors that are part of the configuration: factors of rotations, by name.
    factors: BTreeMap<String, Vec<f32>>,
}

/// A tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointTensor {
    /// Index of the file that holds it.
    pub file: usize,
    /// Where it lies there.
    pub info: TensorInfo,
}

/// More files than any model is split into.
const MAX_SPLITS: usize = 1 << 16;

/// Whether these are the first bytes of a GGUF file.
pub fn is_gguf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"GGUF")
}

/// The names of all files of the split model that `name` is one of, such as
/// `x-00001-of-00003.gguf`; `None` for the name of a whole model.
pub fn split_names(name: &str) -> Option<Vec<String>> {
    let (stem, _, count) = parse_split_name(name)?;
    let names = (1..=count).map(|number| format!("{stem}-{number:05}-of-{count:05}.gguf"));
    Some(names.collect())
}

/// Stem, number from 1, and count.
fn parse_split_name(name: &str) -> Option<(&str, usize, usize)> {
    let stem = name.strip_suffix(".gguf")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let parse = |digits: &str| {
        let all_digits = digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
        all_digits.then(|| digits.parse::<usize>().ok()).flatten()
    };
    let (number, count) = (parse(number)?, parse(count)?);
    (number >= 1 && number <= count && count <= MAX_SPLITS).then_some((stem, number, count))
}

impl Checkpoint {
    /// Reads the headers of a model's files, given as name and bytes, splits in any order.
    ///
    /// # Errors
    /// A damaged file (named in the message), or splits that do not make one model.
    pub fn new(files: &[(&str, &[u8])]) -> Result<Self> {
        let mut headers = Vec::new();
        for (name, bytes) in files {
            let header = Header::parse(bytes).map_err(|error| match error {
                Error::Damaged(problem) if files.len() > 1 => {
                    Error::Damaged(format!("{name}: {problem}"))
                }
                error => error,
            })?;
            headers.push(header);
        }
        check_splits(files, &headers)?;
        let first = headers
            .iter()
            .position(|header| split_number(header).is_none_or(|number| number == 0))
            .ok_or_else(|| Error::Split("no files".to_owned()))?;
        let metadata = headers[first].metadata.clone();
        let mut owners = BTreeMap::<String, usize>::new();
        let mut tensors = Vec::new();
        for (file, header) in headers.into_iter().enumerate() {
            for info in header.tensors {
                if let Some(other) = owners.insert(info.name.clone(), file) {
                    return Err(Error::Split(format!(
                        "tensor '{}' is in both {} and {}",
                        info.name, files[other].0, files[file].0
                    )));
                }
                tensors.push(CheckpointTensor { file, info });
            }
        }
        let factors = tensors
            .iter()
            .filter(|tensor| tensor.info.name.starts_with("rope_"))
            .filter_map(|tensor| {
                let (_, bytes) = files[tensor.file];
                read_factors(&tensor.info, bytes).map(|list| (tensor.info.name.clone(), list))
            })
            .collect();
        Ok(Self {
            metadata,
            tensors,
            factors,
        })
    }

    /// Keys and values of the model.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors.
    pub fn tensors(&self) -> &[CheckpointTensor] {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&CheckpointTensor> {
        self.tensors.iter().find(|tensor| tensor.info.name == name)
    }

    /// The numbers of the tensor `name`, one of those that belong to the configuration.
    pub(crate) fn factors(&self, name: &str) -> Option<&[f32]> {
        self.factors.get(name).map(Vec::as_slice)
    }
}

fn read_factors(info: &TensorInfo, bytes: &[u8]) -> Option<Vec<f32>> {
    let block_type = info.block_type.as_ref().ok()?;
    if *block_type != BlockType::F32 || info.shape.len() != 1 {
        return None;
    }
    let mut numbers = vec![0.0; info.shape[0]];
    block_type.dequantize(bytes.get(info.bytes.clone())?, &mut numbers);
    Some(numbers)
}

fn split_number(header: &Header) -> Option<u64> {
    header.metadata.size("split.no").ok().flatten()
}

/// A whole model is one file; of a split one every part is there once.
fn check_splits(files: &[(&str, &[u8])], headers: &[Header]) -> Result<()> {
    let mut seen = vec![None; headers.len()];
    for (header, (name, _)) in headers.iter().zip(files) {
        let count = header.metadata.size("split.count")?.unwrap_or(1).max(1);
        if count != headers.len() as u64 {
            return Err(Error::Split(format!(
                "{name} is one of {count} files, but there are {}; keep all of a model's files \
                 together, and nothing else",
                headers.len()
            )));
        }
        let number = header.metadata.size("split.no")?.unwrap_or(0);
        let place = usize::try_from(number)
            .ok()
            .and_then(|number| seen.get_mut(number));
        match place {
            Some(place @ None) => *place = Some(*name),
            Some(Some(other)) => {
                return Err(Error::Split(format!(
                    "{other} and {name} both say that they are part {number}"
                )));
            }
            None => {
                return Err(Error::Split(format!(
                    "{name} says that it is part {number} of {count}, counted from 0"
                )));
            }
        }
    }
    let expected = headers
        .iter()
        .find_map(|header| header.metadata.size("split.tensors.count").ok().flatten());
    let found: usize = headers.iter().map(|header| header.tensors.len()).sum();
    match expected {
        Some(expected) if headers.len() > 1 && expected != found as u64 => Err(Error::Split(
            format!("the files hold {found} tensors where {expected} are announced"),
        )),
        _ => Ok(()),
    }
}

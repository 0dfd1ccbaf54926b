use candle_core::DType;

use crate::{Error, Result};

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCacheDType {
    /// float32.
    F32,
    /// float16.
    F16,
    /// bfloat16.
    BF16,
    /// Eight bits with four of exponent (`float8_e4m3fn`), without a scale; on the CPU only.
    Fp8,
    /// Whole numbers of eight bits with a scale for each token and head; on the CPU only.
    Int8,
}

impl KvCacheDType {
    /// Its name, as `--kv-cache-dtype` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
            Self::Fp8 => "fp8",
            Self::Int8 => "int8",
        }
    }

    /// Reads a `--kv-cache-dtype` value. `None` means `auto`, the dtype of the model.
    ///
    /// # Errors
    /// `Unknown KV cache dtype: 'x'` and the known ones, for anything else.
    pub fn parse(name: &str) -> Result<Option<Self>> {
        match name {
            "auto" => Ok(None),
            "float32" | "float" => Ok(Some(Self::F32)),
            "float16" | "half" => Ok(Some(Self::F16)),
            "bfloat16" => Ok(Some(Self::BF16)),
            "fp8" | "fp8_e4m3" => Ok(Some(Self::Fp8)),
            "int8" => Ok(Some(Self::Int8)),
            _ => Err(Error::UnknownKvCacheDType(name.to_owned())),
        }
    }

    /// Bytes of an element.
    pub fn size_in_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Fp8 | Self::Int8 => 1,
        }
    }

    /// The dtype of tensors that store the same.
    pub(crate) fn tensor_dtype(self) -> Result<DType> {
        match self {
            Self::F32 => Ok(DType::F32),
            Self::F16 => Ok(DType::F16),
            Self::BF16 => Ok(DType::BF16),
            Self::Fp8 | Self::Int8 => Err(Error::KvCacheDTypeNeedsCpu(self.name())),
        }
    }
}

impl From<DType> for KvCacheDType {
    /// The dtype of a cache for a model that runs in `dtype`: the same where caches have it.
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F16 => Self::F16,
            DType::BF16 => Self::BF16,
            _ => Self::F32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        use KvCacheDType::{BF16, F16, F32, Fp8, Int8};
        for dtype in [F32, F16, BF16, Fp8, Int8] {
            assert_eq!(KvCacheDType::parse(dtype.name()).unwrap(), Some(dtype));
        }
        assert_eq!(KvCacheDType::parse("auto").unwrap(), None);
        assert_eq!(KvCacheDType::parse("fp8_e4m3").unwrap(), Some(Fp8));
        let message = KvCacheDType::parse("int3").unwrap_err().to_string();
        assert!(
            message.starts_with("Unknown KV cache dtype: 'int3'"),
            "{message}"
        );
    }
}

use candle_core::{DType, Device};

use crate::{Error, Result};

/// Reads a `--dtype` value. `None` means `auto`.
///
/// # Errors
/// `Unknown dtype: 'x'` for anything but `auto`, `float32`, `float`, `float16`, `half`, `bfloat16`.
pub fn parse_dtype(name: &str) -> Result<Option<DType>> {
    match name {
        "auto" => Ok(None),
        "float32" | "float" => Ok(Some(DType::F32)),
        "float16" | "half" => Ok(Some(DType::F16)),
        "bfloat16" => Ok(Some(DType::BF16)),
        _ => Err(Error::UnknownDType(name.to_owned())),
    }
}

/// The long name of a dtype, as configuration files write it.
pub fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        DType::F64 => "float64",
        other => other.as_str(),
    }
}

/// The dtype a model runs in, as vLLM chooses it.
///
/// `requested` wins. Without it a half-precision checkpoint keeps its dtype where the device
/// supports it, and everything else, float32 checkpoints too, gets the type the device prefers:
/// bfloat16, or float16 on GPUs older than compute capability 8.0.
pub fn resolve_dtype(
    requested: Option<DType>,
    checkpoint: Option<DType>,
    device: &Device,
) -> DType {
    if let Some(dtype) = requested {
        return dtype;
    }
    let preferred = if supports_bf16(device) {
        DType::BF16
    } else {
        DType::F16
    };
    match checkpoint {
        Some(DType::F16) => DType::F16,
        _ => preferred,
    }
}

/// The dtype of activations for a model whose weights are stored as `weights`: float32 on the CPU,
/// the weights' own dtype elsewhere.
pub fn activation_dtype(device: &Device, weights: DType) -> DType {
    if device.is_cpu() { DType::F32 } else { weights }
}

#[cfg(feature = "cuda")]
fn supports_bf16(device: &Device) -> bool {
    match device {
        Device::Cuda(cuda) => {
            let capability = cuda.cuda_stream().context().compute_capability();
            capability.is_ok_and(|(major, _)| major >= 8)
        }
        _ => true,
    }
}

#[cfg(not(feature = "cuda"))]
fn supports_bf16(_device: &Device) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |name: &str, expected: Option<DType>| {
            assert_eq!(parse_dtype(name).unwrap(), expected, "{name}");
        };
        check("auto", None);
        check("float32", Some(DType::F32));
        check("float", Some(DType::F32));
        check("half", Some(DType::F16));
        check("float16", Some(DType::F16));
        check("bfloat16", Some(DType::BF16));
        assert_eq!(
            parse_dtype("int3").unwrap_err().to_string(),
            "Unknown dtype: 'int3'"
        );
    }

    #[test]
    fn auto_follows_the_checkpoint_except_for_float32() {
        let check = |requested, checkpoint, expected| {
            let dtype = resolve_dtype(requested, checkpoint, &Device::Cpu);
            assert_eq!(
                dtype, expected,
                "requested {requested:?}, checkpoint {checkpoint:?}"
            );
        };
        check(None, Some(DType::F32), DType::BF16);
        check(None, None, DType::BF16);
        check(None, Some(DType::F16), DType::F16);
        check(None, Some(DType::BF16), DType::BF16);
        check(Some(DType::F32), Some(DType::F16), DType::F32);
    }
}

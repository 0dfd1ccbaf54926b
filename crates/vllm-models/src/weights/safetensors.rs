use safetensors::{Dtype, SafeTensors};
use vllm_tensor::DType;

use super::TensorInfo;

/// The tensors of a safetensors file. The error is a sentence without the file's name.
pub(super) fn read_header(bytes: &[u8]) -> Result<Vec<(String, TensorInfo)>, String> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| format!("not a complete safetensors file ({e}); fetch it again"))?;
    let file_start = bytes.as_ptr().addr();
    let tensors = file.iter().map(|(name, view)| {
        let start = view.data().as_ptr().addr() - file_start;
        let dtype = match view.dtype() {
            Dtype::F32 => Ok(DType::F32),
            Dtype::F16 => Ok(DType::F16),
            Dtype::BF16 => Ok(DType::BF16),
            Dtype::F64 => Ok(DType::F64),
            other => Err(format!("{other:?}")),
        };
        let bytes = start..start + view.data().len();
        (
            name.to_owned(),
            TensorInfo {
                dtype,
                shape: view.shape().to_vec(),
                bytes,
            },
        )
    });
    Ok(tensors.collect())
}

use candle_core::{Device, DeviceLocation};

use crate::{Error, Result};

/// The device that `name` asks for: `auto`, `cpu`, `cuda` (the first GPU) or `cuda:N`.
///
/// `auto` is the first GPU when this build has CUDA and the GPU works, otherwise the CPU.
///
/// # Errors
/// An unknown name; a CUDA device in a build without the `cuda` feature; a GPU that does not start.
pub fn select_device(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(cuda_device(name, 0).unwrap_or(Device::Cpu)),
        "cuda" => cuda_device(name, 0),
        _ => match name.strip_prefix("cuda:").map(str::parse::<usize>) {
            Some(Ok(index)) => cuda_device(name, index),
            _ => Err(Error::UnknownDevice(name.to_owned())),
        },
    }
}

fn cuda_device(name: &str, index: usize) -> Result<Device> {
    if !cfg!(feature = "cuda") {
        return Err(Error::CudaNotBuilt(name.to_owned()));
    }
    Device::new_cuda(index).map_err(|source| Error::CudaUnavailable { index, source })
}

/// The device as `--device` spells it: `cpu`, `cuda:N`.
pub fn device_name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "cpu".to_owned(),
        DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

/// Free bytes of a GPU's own memory; `None` where the device shares the host's, and when the
/// driver does not tell.
#[cfg(feature = "cuda")]
pub fn free_device_memory(device: &Device) -> Option<u64> {
    let Device::Cuda(cuda) = device else {
        return None;
    };
    let (free, _total) = cuda.cuda_stream().context().mem_get_info().ok()?;
    u64::try_from(free).ok()
}

/// Free bytes of a GPU's own memory; always `None` in a build without GPUs.
#[cfg(not(feature = "cuda"))]
pub fn free_device_memory(_device: &Device) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there() {
        assert!(select_device("cpu").unwrap().is_cpu());
        assert!(select_device("auto").is_ok());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn cuda_without_the_feature_names_the_build() {
        for name in ["cuda", "cuda:1"] {
            let message = select_device(name).unwrap_err().to_string();
            assert!(message.contains("--features cuda"), "{message}");
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        for name in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            let message = select_device(name).unwrap_err().to_string();
            assert!(message.starts_with("unknown device"), "{message}");
        }
    }
}

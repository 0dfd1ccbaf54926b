use std::str::FromStr;

/// Which files of a checkpoint are read, in vLLM's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadFormat {
    /// Safetensors where there are any, else PyTorch files.
    #[default]
    Auto,
    /// Safetensors only.
    Safetensors,
    /// PyTorch files only: `*.bin` or `*.pt`.
    Pt,
    /// GGUF files only.
    Gguf,
    /// None: the weights are made up. For measuring speed without a checkpoint.
    Dummy,
}

impl LoadFormat {
    /// As it is written on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Safetensors => "safetensors",
            Self::Pt => "pt",
            Self::Gguf => "gguf",
            Self::Dummy => "dummy",
        }
    }
}

impl FromStr for LoadFormat {
    type Err = String;

    /// Takes the names, and `hf` for `auto`.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "auto" | "hf" => Ok(Self::Auto),
            "safetensors" => Ok(Self::Safetensors),
            "pt" => Ok(Self::Pt),
            "gguf" => Ok(Self::Gguf),
            "dummy" => Ok(Self::Dummy),
            _ => Err(format!(
                "Unknown load format: '{name}'; use auto, safetensors, pt, gguf or dummy"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for format in [
            LoadFormat::Auto,
            LoadFormat::Safetensors,
            LoadFormat::Pt,
            LoadFormat::Gguf,
            LoadFormat::Dummy,
        ] {
            assert_eq!(format.name().parse(), Ok(format));
        }
        assert_eq!("hf".parse(), Ok(LoadFormat::Auto));
        let message = "tensorizer".parse::<LoadFormat>().unwrap_err();
        assert!(message.contains("'tensorizer'"), "{message}");
    }
}

//! `vllm-offline convert`: a model's weights in another form.

use std::ops::ControlFlow;
use std::path::PathBuf;

use vllm_batch::Stop;
use vllm_engine::{EngineConfig, LoadFormat, LoadProgress, OutputFormat, Result};
use vllm_terminal::ByteBar;

/// Write a model's weights anew: as one GGUF file, or as a folder with safetensors.
///
/// Weights that are stored quantized become numbers first. The output appears when it is complete.
#[derive(Debug, clap::Args)]
pub(crate) struct Convert {
    /// Folder, GGUF file or hub name of the model
    #[arg(value_name = "IN")]
    input: String,
    /// The GGUF file or the folder to write; it must not be there yet
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// What to write
    #[arg(long, value_name = "FORMAT")]
    format: Format,
    /// What linear layers become: int8 or fp8 in safetensors; int8 or a GGUF type such as q4_k in GGUF
    /// [default: plain numbers]
    #[arg(long, short = 'q', value_name = "METHOD")]
    quantization: Option<String>,
    /// The same for embeddings and output layer, or none to leave both as they are (GGUF) [default: leave
    /// embeddings and output layers that share them]
    #[arg(long, value_name = "METHOD")]
    embedding_quantization: Option<String>,
    /// What numbers are written in: auto, float32, bfloat16 or float16
    #[arg(long, default_value = "auto")]
    dtype: String,
    /// Which weight files to read: auto, safetensors, pt or gguf
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    load_format: LoadFormat,
    /// Branch, tag or commit on the hub
    #[arg(long)]
    revision: Option<String>,
    /// Token for private and gated models; also HF_TOKEN
    #[arg(long, value_name = "TOKEN")]
    hf_token: Option<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    Gguf,
    Safetensors,
}

impl Convert {
    /// Says whether it was broken off by Ctrl-C.
    pub(crate) fn run(&self) -> Result<ControlFlow<()>> {
        let mut config = EngineConfig::new(&self.input);
        config.quantization.clone_from(&self.quantization);
        config
            .embedding_quantization
            .clone_from(&self.embedding_quantization);
        config.dtype.clone_from(&self.dtype);
        config.load_format = self.load_format;
        config.revision.clone_from(&self.revision);
        config.hf_token.clone_from(&self.hf_token);
        let format = match self.format {
            Format::Gguf => OutputFormat::Gguf,
            Format::Safetensors => OutputFormat::Safetensors,
        };
        let stop = Stop::default();
        let stop_at_interrupt = stop.clone();
        let installed = ctrlc::set_handler(move || {
            if stop_at_interrupt.request() {
                std::process::exit(130);
            }
        });
        if let Err(error) = installed {
            eprintln!("vllm-offline: Ctrl-C will not be handled: {error}");
        }
        let bar = ByteBar::on_terminal("Writing weights");
        let mut progress = |progress: LoadProgress| {
            if let Some(bar) = &bar {
                bar.show(progress.loaded_bytes, progress.total_bytes);
            }
            match stop.is_requested() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        vllm_engine::convert(&config, &self.output, format, &mut progress)
    }
}

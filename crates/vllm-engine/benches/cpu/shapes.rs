//! The shapes of the models that are measured.

/// A dense decoder of the Llama family, its embeddings tied to its head.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) architecture: &'static str,
    pub(crate) model_type: &'static str,
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_layers: usize,
    pub(crate) num_heads: usize,
    pub(crate) num_kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) max_positions: usize,
    pub(crate) rope_theta: f64,
    pub(crate) rms_norm_eps: f64,
    /// Queries and keys are normalized per head, as in Qwen3.
    pub(crate) has_qk_norm: bool,
}

const SHAPES: [Shape; 2] = [
    Shape {
        name: "qwen3-0.6b",
        architecture: "Qwen3ForCausalLM",
        model_type: "qwen3",
        vocab_size: 151_936,
        hidden_size: 1024,
        intermediate_size: 3072,
        num_layers: 28,
        num_heads: 16,
        num_kv_heads: 8,
        head_dim: 128,
        max_positions: 40_960,
        rope_theta: 1e6,
        rms_norm_eps: 1e-6,
        has_qk_norm: true,
    },
    Shape {
        name: "llama-3.2-1b",
        architecture: "LlamaForCausalLM",
        model_type: "llama",
        vocab_size: 128_256,
        hidden_size: 2048,
        intermediate_size: 8192,
        num_layers: 16,
        num_heads: 32,
        num_kv_heads: 8,
        head_dim: 64,
        max_positions: 131_072,
        rope_theta: 5e5,
        rms_norm_eps: 1e-5,
        has_qk_norm: false,
    },
];

pub(crate) fn named(name: &str) -> &'static Shape {
    let known = SHAPES.iter().map(|shape| shape.name).collect::<Vec<_>>();
    SHAPES
        .iter()
        .find(|shape| shape.name == name)
        .unwrap_or_else(|| panic!("there is no shape `{name}`, only {known:?}"))
}

impl Shape {
    /// Name and `[out, in]` of every matrix of a layer.
    pub(crate) fn layer_matrices(&self) -> [(&'static str, usize, usize); 7] {
        let queries = self.num_heads * self.head_dim;
        let keys = self.num_kv_heads * self.head_dim;
        [
            ("self_attn.q_proj", queries, self.hidden_size),
            ("self_attn.k_proj", keys, self.hidden_size),
            ("self_attn.v_proj", keys, self.hidden_size),
            ("self_attn.o_proj", self.hidden_size, queries),
            ("mlp.gate_proj", self.intermediate_size, self.hidden_size),
            ("mlp.up_proj", self.intermediate_size, self.hidden_size),
            ("mlp.down_proj", self.hidden_size, self.intermediate_size),
        ]
    }

    /// Prints what bounds a step: `layer_weights N` in all layers' matrices, `head_weights N` in the
    /// output matrix, `kv_values N` that a token leaves in the cache, and `attention_flops N` for a
    /// query and one position before it.
    pub(crate) fn describe(&self) {
        let layer: usize = self.layer_matrices().iter().map(|(_, o, i)| o * i).sum();
        println!("layer_weights {}", layer * self.num_layers);
        println!("head_weights {}", self.vocab_size * self.hidden_size);
        let kv_values = 2 * self.num_layers * self.num_kv_heads * self.head_dim;
        println!("kv_values {kv_values}");
        let attention_flops = 4 * self.num_layers * self.num_heads * self.head_dim;
        println!("attention_flops {attention_flops}");
    }
}

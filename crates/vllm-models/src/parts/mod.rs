//! What decoders are made of; each family puts these together in its own file.

mod attention;
mod decoder;
mod feed_forward;
mod moe;
mod norm;
pub(crate) mod rope;
mod usual;

pub(crate) use attention::{Attention, AttentionBias};
pub(crate) use decoder::{Decoder, DecoderLayer, DecoderNames, Residual};
pub(crate) use feed_forward::{FeedForward, GatedMlp, Mlp, activation};
pub(crate) use moe::{MoeBlock, SharedExpert};
pub(crate) use norm::{Norm, NormKind};
pub(crate) use usual::{UsualConfig, load_usual, usual_layer};

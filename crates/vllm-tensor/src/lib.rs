//! The tensor backend: devices, dtypes and the operations a language model is made of.

//! The OpenAI wire protocol as vLLM speaks it: types, validation, errors, stream assembly.

//! The model zoo: configuration, weight names and forward passes over flat batches.

//! Jinja chat templates as the model ecosystem writes them.

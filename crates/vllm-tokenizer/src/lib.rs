//! Text to token ids and back, incrementally, with stop strings.

"""Reference decoders and model doubles, shared by tests and benchmarks."""

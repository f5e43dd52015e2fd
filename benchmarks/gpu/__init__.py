"""Everything that needs a GPU, as one program: `python -m benchmarks.gpu`."""

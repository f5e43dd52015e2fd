"""Benchmarks: every figure is measured against a partner in the same run. Start: `run`."""

"""Decoding: canvas, suffix, plan, cache, forward, commit, loop. Knows models by adapter only."""

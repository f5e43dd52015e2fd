"""Tiny models of both families."""

from tests.generation.conftest import dream, dream_weights, ids, llada, model, weights  # noqa: F401

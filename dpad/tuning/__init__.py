"""`tune`: what a setting costs and what it loses, on the user's own problems and checker."""

from dpad.tuning.result import Point, Tuning
from dpad.tuning.sweep import tune

__all__ = ["Point", "Tuning", "tune"]

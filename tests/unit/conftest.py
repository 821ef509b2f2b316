"""Hypothesis for busy machines and for CI: no deadline for an example, fewer of them, the same ones every time."""

from hypothesis import settings

settings.register_profile("unit", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("unit")

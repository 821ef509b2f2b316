"""Hypothesis for busy machines: no deadline for an example, fewer of them."""

from hypothesis import settings

settings.register_profile("unit", deadline=None, max_examples=50)
settings.load_profile("unit")

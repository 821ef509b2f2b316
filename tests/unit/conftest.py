"""Hypothesis for busy machines and for CI: no deadline for an example, fewer of them, the same ones every time."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("unit", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Stages set variables of their process, which here is the tests' as well (HF_HUB_OFFLINE)."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)

"""Reasoning-aware structural pruning: the library behind the pipeline's stages, and what a program calls (api.py).

    from pruning import prune, load, calibrate, score, allocate, compact, reconstruct

Pure functions and small classes that know nothing of Snakemake. Each stage of the
pipeline imports only the modules it needs: the workflow lists exactly those files as
the stage's inputs, so an edit here re-runs the stages that import the edited module
and no others (see docs/architecture.md). So api.py, which imports of everything, is
loaded only where one asks this package for a name; the library and its stages do not.
"""

import os.path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pruning.api import Result, Statistics, allocate, calibrate, compact, load, prune, reconstruct, score
else:

    def __getattr__(name: str) -> object:
        if name in __all__:
            from pruning import api

            return getattr(api, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Result", "Statistics", "allocate", "calibrate", "compact", "load", "prune", "reconstruct", "score"]

# A wheel holds the checkout's workflow in `_workflow`, and the library once: there, where the rules look for it.
if os.path.isdir(_installed := os.path.join(os.path.dirname(__file__), "_workflow/scripts/pruning")):
    __path__ = [_installed]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Reasoning-aware structural pruning: the library behind the pipeline's stages.

Pure functions and small classes that know nothing of Snakemake. Each stage of the
pipeline imports only the modules it needs: the workflow lists exactly those files as
the stage's inputs, so an edit here re-runs the stages that import the edited module
and no others (see docs/architecture.md). Keep this file empty of imports of the library.
"""

import os.path

# A wheel holds the checkout's workflow in `_workflow`, and the library once: there, where the rules look for it.
if os.path.isdir(_installed := os.path.join(os.path.dirname(__file__), "_workflow/scripts/pruning")):
    __path__ = [_installed]

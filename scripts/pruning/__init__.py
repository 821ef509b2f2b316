"""Reasoning-aware structural pruning: the library behind the pipeline's stages.

Pure functions and small classes that know nothing of Snakemake. Each stage of the
pipeline imports only the modules it needs: the workflow lists exactly those files as
the stage's inputs, so an edit here re-runs the stages that import the edited module
and no others (see docs/architecture.md). Keep this file empty of imports.
"""

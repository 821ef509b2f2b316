"""As ridge_corrective, and attention's output projection is refitted as well, before the FFN (methods/refit.py)."""

from pruning.methods.compensation.ridge_sequential import compensate, evidence

__all__ = ["ATTENTION", "compensate", "evidence"]

ATTENTION = True
"""That there are other weights of attention."""

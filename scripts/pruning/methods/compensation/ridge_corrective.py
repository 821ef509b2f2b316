"""Ridge compensation on what the pruned model itself sees: each layer is refitted after those before it, towards the
dense model's residual stream, so that it compensates for their errors (methods/refit.py).
"""

from pruning.methods.compensation.ridge_sequential import REFITS, REQUIRES, compensate, evidence

__all__ = ["REFITS", "REQUIRES", "compensate", "evidence"]

CORRECTIVE = True

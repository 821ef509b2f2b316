"""As ridge_corrective, and attention's output projection is refitted as well, before the FFN (methods/refit.py)."""

from pruning.methods.compensation.ridge_corrective import CORRECTIVE, REQUIRES, compensate, evidence

__all__ = ["CORRECTIVE", "REFITS", "REQUIRES", "compensate", "evidence"]

REFITS = ("ffn", "kv_groups")

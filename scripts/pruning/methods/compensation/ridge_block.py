"""As ridge_attention, and then all matrices of a layer, FFN and attention, are trained together towards the same
target, from where least squares left them (methods/training.py).
"""

from pruning.methods.compensation.ridge_attention import CORRECTIVE, REFITS, REQUIRES, compensate, evidence

__all__ = ["CORRECTIVE", "REFITS", "REQUIRES", "TRAINS", "compensate", "evidence"]

TRAINS = True

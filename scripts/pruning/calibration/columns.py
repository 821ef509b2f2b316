"""The calibration statistics: which columns there are, and how shards merge.

Every column is a sum over calibration samples or tokens, so shards merge by adding up, in any order.
One row is one FFN neuron (of a mixture, those of all experts, one expert after the other); a = down_proj's input,
g = d objective / d a, p = a * g; <obj> is each objective of the calibration (objectives.py):

n_tokens, n_samples      counted tokens and samples
act_sum                  sum_{x,t} a
act_abs_sum              sum_{x,t} |a|
act_sq_sum               sum_{x,t} a^2
act_mean_abs_sq_sum      sum_x (mean_t |a|)^2
<obj>_net_abs_sum        sum_x |sum_t p|
<obj>_net_sq_sum         sum_x (sum_t p)^2
<obj>_abs_sum            sum_x sum_t |p|
<obj>_sq_sum             sum_x sum_t p^2
<obj>_share_sum          sum_x [ sum_t |p_c| / sum_{j in layer} sum_t |p_j| ]
<obj>_grad_sq_sum        sum_{x,t} g^2

Of experts, the same in every row of one: how many tokens are sent to it, and the size of what it adds to the FFN's
output, the router's weight times its own output f_j(x):

routed_tokens            counted tokens that are sent to it
routed_norm_sum          sum_{x,t} g_j(x_t) ||f_j(x_t)||_2
<obj>_expert_sq_sum      sum_{x,t} (sum_c p_c)^2, c over its neurons

A second table splits some of these sums by the class of the token t (token_classes.py): one row is one neuron and
class, n_tokens the counted tokens of that class, and the sums over its classes are the neuron's of the first table.
"""

from collections.abc import Iterable, Sequence

import pandas as pd

from pruning.core.errors import InputError

ACTIVATION = ("act_sum", "act_abs_sum", "act_sq_sum", "act_mean_abs_sq_sum")
GRADIENT = ("net_abs_sum", "net_sq_sum", "abs_sum", "sq_sum", "share_sum", "grad_sq_sum")
COUNTS = ("n_tokens", "n_samples")
OF_EXPERTS = ("routed_tokens", "routed_norm_sum")
LAYER_COLUMNS = ("n_tokens", "angular_sum")  # angular_sum: sum_t arccos(cos(h_in, h_out)) / pi, CFSP's coarse measure
TOKEN_CLASSES = ("first", "digit", "operator", "function", "punctuation", "other")
SHARDED = {"statistics": ("layer", "unit"), "layers": ("layer",)}  # kind of table -> what its rows are


def neuron_columns(objectives: Sequence[str]) -> list[str]:
    return [*COUNTS, *ACTIVATION, *(f"{o}_{c}" for o in objectives for c in GRADIENT)]


def expert_columns(objectives: Sequence[str]) -> list[str]:
    return [*OF_EXPERTS, *(f"{o}_expert_sq_sum" for o in objectives)]


def token_class_columns(objectives: Sequence[str]) -> list[str]:
    return ["n_tokens", "act_abs_sum", "act_sq_sum", *(f"{o}_abs_sum" for o in objectives)]


def merge(frames: Iterable[pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    """Add up shards row by row, one at a time, so that an iterator's are never all in memory.

    Raises InputError if they do not hold the same rows (another model's shard, say)."""
    total = None
    for frame in frames:
        indexed = frame.set_index(list(keys)).sort_index()
        if total is None:
            total = indexed
        elif indexed.index.equals(total.index) and list(indexed.columns) == list(total.columns):
            total = total + indexed
        else:
            raise InputError("calibration shards hold different neurons or columns; delete the shards and run again")
    return total.reset_index()

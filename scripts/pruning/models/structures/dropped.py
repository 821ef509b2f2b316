"""Attention without key-value groups: transformers' own classes cannot count heads of no channels. `Dropped` is written
beside such models as it stands here; every family whose attention can be cut calls the projection `o_proj`.
"""

from torch import nn


class Dropped(nn.Module):
    """Attention without a group: its output projection makes zeros of nothing, or its bias. Lengths are read from the
    cache, which gets a channel of zeros for each token."""

    def __init__(self, attention):
        super().__init__()
        self.layer_idx = attention.layer_idx
        for name, module in attention.named_children():
            self.add_module(name, module)

    def forward(self, hidden_states, cache=None, past_key_values=None, **_):
        cache = past_key_values if cache is None else cache  # its name before transformers 5.24
        if cache is not None:
            nothing = hidden_states.new_zeros(len(hidden_states), 1, hidden_states.shape[1], 1)
            cache.update(nothing, nothing, self.layer_idx)
        return self.o_proj(hidden_states[..., :0]), None

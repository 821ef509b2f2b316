"""Key-value groups: a head of keys and values and the query heads that read it (grouped-query attention, Ainslie et al.
2023, arXiv 2305.13245): rows of q, k and v and columns of o, all of one length each; measured at the input of o.

As many query heads as ever read a group, so transformers' own class computes a layer's attention: it takes the number
of heads from the tensors. config.json keeps the dense model's heads, and lists the groups of each layer under
`kv_groups`. A layer without a group has a `Dropped` in the place of its attention.
"""

import inspect
from collections.abc import Mapping
from string import Template
from typing import Any

from torch import nn

from pruning.core.errors import InputError
from pruning.models import families
from pruning.models.families import Family
from pruning.models.structures.base import Code, Structure

REGROUPED = Template('''

def regroup(layers, config):
    """Attention of as many key-value groups as `kv_groups` says: the query heads of each are as many as ever."""
    whole = config.num_key_value_heads
    for layer, groups in zip(layers, config.kv_groups, strict=True):
        for name in $qkv:
            old = layer.get_submodule(name)
            new = linear(old, old.in_features, old.out_features // whole * groups, old.bias is not None)
            layer.set_submodule(name, new)
        old = layer.get_submodule("$attention_out")
        new = linear(old, old.in_features // whole * groups, old.out_features, old.bias is not None)
        layer.set_submodule("$attention_out", new)
''')

# transformers' own classes cannot count heads of no channels. What follows is written beside such models as it stands
# here; every family whose attention can be cut calls the projection `o_proj`.


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


class Groups(Structure):
    """The key-value groups of attention. A stock model has `num_key_value_heads` of them in every layer."""

    name = "kv_groups"
    key = families.GROUPS
    title = "key-value groups"

    def modules(self, family: Family) -> dict[str, tuple[int, int]]:
        if not family.qkv:
            raise InputError(
                "key-value groups cannot be pruned in this family's attention (fused projections, norms over all "
                "heads, or layers without attention); use an allocation other than `joint` and `sensitivity_joint`"
            )
        return {**dict.fromkeys(family.qkv, (0, 1)), family.attention_out: (1, 1)}

    def site(self, family: Family) -> str:
        return family.attention_out

    def whole(self, config: Mapping[str, Any]) -> int:
        """Raises InputError without grouped queries: a group would be a head, and its keys and values its own."""
        heads, groups = config["num_attention_heads"], config.get("num_key_value_heads")
        if not groups or groups == heads:
            raise InputError(
                f"{config.get('model_type')} model with {heads} query and as many key-value heads: no grouped-query "
                "attention, so no groups to prune; use an allocation other than `joint` and `sensitivity_joint`"
            )
        return groups

    def settle(self, layer: nn.Module, family: Family, units: int) -> None:
        """Put a `Dropped` in the place of attention whose projections have no groups left."""
        if not units:
            place = family.attention_out.removesuffix(".o_proj")
            layer.set_submodule(place, Dropped(layer.get_submodule(place)))

    def code(self, config: Mapping[str, Any], family: Family) -> Code:
        text = REGROUPED.substitute(qkv=list(family.qkv), attention_out=family.attention_out)
        if 0 in self.listed(config):
            place = family.attention_out.removesuffix(".o_proj")
            text += "        if not groups:\n"
            text += f'            layer.set_submodule("{place}", Dropped(layer.get_submodule("{place}")))\n'
            text += "\n\n" + inspect.getsource(Dropped)
        return Code(text, "regroup", "its attention the groups that `kv_groups` says")


STRUCTURE = Groups()
sites = STRUCTURE.sites

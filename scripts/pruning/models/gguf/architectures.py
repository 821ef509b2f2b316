"""What llama.cpp builds of each family.

Other widths in every layer, and biases of down_proj, are written as `deci` (Llama with a list of widths), which what is
Llama's can be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pruning.core.errors import InputError


@dataclass(frozen=True)
class Architecture:
    """What llama.cpp builds."""

    name: str
    interleaved: bool = False
    """Whether a rotated pair are neighbours, as in Meta's Llama; in transformers they are half a head apart."""
    ffn_biases: bool = False
    """Whether its FFN takes biases."""
    activation: str = "silu"
    """Of its FFN, in transformers' words."""
    one_added: bool = False
    """Whether norms scale by 1 + weight in transformers; in llama.cpp by the weight."""
    window: bool = False
    """Whether it has layers with a sliding window."""
    renormalised: bool | None = None
    """Of a mixture, whether the weights of a token's experts are made to add up to 1; None: the file says it."""


GELU = "gelu_pytorch_tanh"
DECI = Architecture("deci", interleaved=True, ffn_biases=True)
LLAMA = Architecture("llama", interleaved=True, ffn_biases=True)
STOCK = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "olmo2": Architecture("olmo2"),
    "granite": Architecture("granite", interleaved=True, ffn_biases=True),
    "smollm3": Architecture("smollm3", interleaved=True),
    "gemma": Architecture("gemma", activation=GELU, one_added=True),
    "gemma2": Architecture("gemma2", activation=GELU, one_added=True, window=True),
    "gemma3_text": Architecture("gemma3", activation=GELU, one_added=True, window=True),
    "phi3": Architecture("phi3"),
    "qwen2_moe": Architecture("qwen2moe", renormalised=False),
    "qwen3_moe": Architecture("qwen3moe", renormalised=True),
    "olmoe": Architecture("olmoe", renormalised=False),
    "mixtral": Architecture("llama", interleaved=True, renormalised=True),
    "gpt_oss": Architecture("gpt-oss", ffn_biases=True, window=True, renormalised=True),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), Architecture("deepseek2")),
}
"""By transformers' model type; each is proven in tests/unit/test_gguf.py against llama.cpp."""
AS_DECI = ("llama", "mistral", "qwen2")
"""What `deci` computes as well: no more than Llama does, but for biases of q, k and v. Others have one width for all
layers."""


def architecture(kind: str, widths: Sequence[int], biased: bool) -> Architecture:
    """For a model type, its FFN widths, and whether its FFNs have biases. Raises InputError if llama.cpp has none."""
    if kind not in STOCK:
        raise InputError(f"gguf: model type {kind!r} is not converted; {', '.join(STOCK)} are")
    if 0 in widths:
        raise InputError(
            "gguf: layers without an FFN are not converted: use a method without `drop_layers`, or `export: pad`"
        )
    stock = STOCK[kind]
    if len(set(widths)) == 1 and (stock.ffn_biases or not biased):
        return stock
    if kind in AS_DECI:
        return DECI
    what = "layers of different widths" if len(set(widths)) > 1 else "biases of the FFN"
    raise InputError(
        f"gguf: llama.cpp's {stock.name} has no {what} (its `deci` has: {', '.join(AS_DECI)} are written as that); use "
        f"a method with `allocate: uniform` and `compensate: none`, or `export: pad`, with which all have {max(widths)}"
    )

"""A head's logits in pieces, in one run: copied as `pruning.models.head` does it, or as views; the losses and the
divergences of one product of it, or of two; the gradient of divergences made with them, or by autograd, again; and
divergences of a few tokens at once, or of more.

python benchmarks/head.py                     Qwen2.5's vocabulary and Qwen2.5-Coder-1.5B's width, bfloat16
"""

from functools import partial
from typing import Annotated

import torch
import typer
from common import seconds
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM

from pruning.models import head


def plain(model: nn.Module, hidden: Tensor, wanted: Tensor) -> Tensor:
    """KL divergences, as torch's own functions give them."""
    ours, theirs = (head.logits_of(model, each) for each in (hidden, wanted))
    return head._in_cache(head._divergence, ours, theirs)


def gradient(losses: Tensor, hidden: Tensor) -> Tensor:
    return torch.autograd.grad(losses.mean(), hidden)[0]


@torch.no_grad()
def main(
    rows: int = 10,
    tokens: int = 128,
    hidden: int = 1536,
    vocabulary: int = 151936,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, …")] = "bfloat16",
    threads: int = 2,
) -> None:
    torch.set_num_threads(threads)
    shape = {"hidden_size": hidden, "vocab_size": vocabulary, "num_hidden_layers": 1, "intermediate_size": hidden}
    config = AutoConfig.for_model("qwen2", num_attention_heads=12, num_key_value_heads=2, **shape)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval().requires_grad_(False)
    states = torch.randn(rows, tokens, hidden).to(getattr(torch, dtype))
    ids = torch.randint(vocabulary, (rows, tokens))
    losses = [head.token_losses(model, states, ids)]  # warms up
    teacher, wanted = partial(head.logits_of, model), torch.randn_like(states)
    one = seconds(lambda: head.losses_and_divergences(model, states, ids, teacher, wanted))
    alone = seconds(lambda: plain(model, states, wanted))
    copied = seconds(lambda: head.token_losses(model, states, ids))
    head._cut = lambda hidden, size: hidden.split(size, dim=1)
    viewed = seconds(lambda: losses.append(head.token_losses(model, states, ids)))
    print(f"{rows} x {tokens} tokens, {vocabulary} words, {dtype}: copied {copied:.2f} s, views {viewed:.2f} s")
    apart = (losses[0] - losses[1]).abs().max()
    print(f"losses and divergences of one product {one:.2f} s, of two {(copied + alone) / one:.2f} times as long")
    print(f"ratio {viewed / copied:.1f}; largest difference of losses {apart:.1e} nats")
    with torch.enable_grad():
        own = torch.randn(1, rows * tokens // 4, hidden).to(getattr(torch, dtype)).requires_grad_()
        goals = torch.randn_like(own)
        made = seconds(lambda: gradient(head.divergences(model, own[0], teacher, goals[0]), own))
        again = seconds(lambda: gradient(checkpoint(plain, model, own, goals, use_reentrant=False), own))
    print(f"a gradient of divergences {made:.2f} s, by autograd, computed again, {again / made:.2f} times as long")
    logits = [head.logits_of(model, each[:1]) for each in (states, wanted)]
    took = {}
    for at_once in (head.IN_CACHE // vocabulary, 32, tokens):
        head.IN_CACHE = at_once * vocabulary
        took[at_once] = seconds(lambda: head._in_cache(head._divergence, *logits), 5)
    first, *others = took
    ratios = ", ".join(f"{each} {took[each] / took[first]:.2f} times as long" for each in others)
    print(f"divergences of {tokens} tokens, {first} at once: {took[first]:.2f} s; {ratios}")


if __name__ == "__main__":
    typer.run(main)

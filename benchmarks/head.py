"""A head's logits in pieces, in one run: copied as `pruning.models.head` does it, or as views; and the losses and the
divergences of one product of it, or of two.

python benchmarks/head.py                     Qwen2.5's vocabulary and Qwen2.5-Coder-1.5B's width, bfloat16
"""

from functools import partial
from typing import Annotated

import torch
import typer
from common import seconds
from transformers import AutoConfig, AutoModelForCausalLM

from pruning.models import head


@torch.inference_mode()
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
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()
    states = torch.randn(rows, tokens, hidden).to(getattr(torch, dtype))
    ids = torch.randint(vocabulary, (rows, tokens))
    losses = [head.token_losses(model, states, ids)]  # warms up
    teacher, wanted = partial(head.logits_of, model), torch.randn_like(states)
    one = seconds(lambda: head.losses_and_divergences(model, states, ids, teacher, wanted))
    alone = seconds(lambda: head.token_divergences(model, states, teacher, wanted))
    copied = seconds(lambda: head.token_losses(model, states, ids))
    head._cut = lambda hidden, size: hidden.split(size, dim=1)
    viewed = seconds(lambda: losses.append(head.token_losses(model, states, ids)))
    print(f"{rows} x {tokens} tokens, {vocabulary} words, {dtype}: copied {copied:.2f} s, views {viewed:.2f} s")
    apart = (losses[0] - losses[1]).abs().max()
    print(f"losses and divergences of one product {one:.2f} s, of two {(copied + alone) / one:.2f} times as long")
    print(f"ratio {viewed / copied:.1f}; largest difference of losses {apart:.1e} nats")


if __name__ == "__main__":
    typer.run(main)

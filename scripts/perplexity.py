"""Perplexity of one model on one text: {task}.json and {task}.samples.parquet (one row a window)."""

import hashlib
import math
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def perplexity(
    settings: cli.Settings,
    model: Annotated[Path, typer.Option(help="directory of the model")],
    data: Annotated[Path, typer.Option(help="parquet of the text's split")],
    output: Annotated[Path, typer.Option(help="{task}.json")],
    samples: Annotated[Path, typer.Option(help="{task}.samples.parquet")],
    adapter: Annotated[Path | None, typer.Option(help="directory of a LoRA adapter to put on the model")] = None,
    threads: int = 1,
) -> None:
    cli.set_threads(threads)
    import pandas as pd
    import torch
    from tqdm import tqdm

    from pruning.core import artifacts, out_of_memory
    from pruning.core.limits import LEAST_WINDOWS
    from pruning.evaluation.perplexity import negative_log_likelihoods, windows
    from pruning.models import loading

    torch.set_num_threads(threads)
    cli.phase("start-up")
    network, tokenizer = loading.load(model, settings["dtype"], adapter=adapter)
    cli.phase("load")
    seqlen, context = settings["seqlen"], network.config.max_position_embeddings
    if seqlen > context:
        raise cli.InputError(f"seqlen: {seqlen} is longer than the model's context of {context} tokens")
    records = artifacts.read_table(data, "dataset").to_pylist()
    text = settings["joiner"].join(settings["text"].format_map(record) for record in records)
    cut = windows(tokenizer(text, verbose=False)["input_ids"], seqlen, settings["tokens"])
    with out_of_memory.advise(f"`batch_size: {settings['batch_size']}`: lower it, or `seqlen`"):
        scored = negative_log_likelihoods(network, cut, settings["batch_size"])
        nll = list(tqdm(scored, "windows", total=len(cut), mininterval=5))
    frame = pd.DataFrame(
        {
            "item": range(len(cut)),
            "item_hash": [hashlib.sha256(window.numpy().tobytes()).hexdigest()[:16] for window in cut],
            "metric": "perplexity",
            "value": nll,
            "weight": seqlen - 1,
            "cluster": pd.array([None] * len(cut), dtype="string"),
            "prediction": "",
            "target": "",
            "generated_tokens": pd.array([None] * len(cut), dtype="Int64"),
            "finish_reason": pd.array([None] * len(cut), dtype="string"),
            "repetition": pd.array([None] * len(cut), dtype="float64"),
        }
    )
    artifacts.write_parquet(samples, frame, "samples", settings)
    value = math.exp(sum(nll) / frame["weight"].sum())
    content = {"perplexity": value, "tokens": int(frame["weight"].sum()), "windows": len(cut), "seqlen": seqlen}
    artifacts.write_json(output, content, "evaluation", settings)
    if len(cut) < LEAST_WINDOWS:
        print(
            f"warning: fewer than {LEAST_WINDOWS} windows: {len(cut)} of seqlen {seqlen}; tests on so few tell little. "
            "Lower `seqlen`, or give the task more text"
        )
    print(f"perplexity {value:.3f} over {content['tokens']} tokens, seqlen {seqlen}")


if __name__ == "__main__":
    cli.run(perplexity)

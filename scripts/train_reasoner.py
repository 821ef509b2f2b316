"""Train the tiny reasoner from scratch on generated word problems (docs/tiny-reasoner.md).

Writes a Hugging Face model directory with its model card, recipe, training log and measured accuracy. `make
promote-reasoner` copies a finished one to resources/, which the embedded default prunes; a fresh clone never trains.
"""

import time
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from pruning.core import cli


def train_reasoner(
    settings: cli.Settings,
    output: Annotated[Path, typer.Option(help="model directory to write")],
    threads: int = 1,
) -> None:
    cli.set_threads(threads)
    import pandas as pd
    import torch
    from rich.progress import track

    from pruning.core import artifacts
    from pruning.data import word_problems
    from pruning.models import reasoner

    torch.set_num_threads(threads)
    torch.manual_seed(settings["seed"])
    mix = (settings["templates"], settings["seed"], settings["drills"], settings["option_share"])
    texts = ("".join(text for text, _ in document) for document in reasoner.documents(*mix))
    tokenizer = reasoner.train_tokenizer(islice(texts, 20_000), settings["vocabulary"])
    model = reasoner.new_model(settings["shape"], tokenizer, settings["context"])
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings["learning_rate"], betas=(0.9, 0.98), weight_decay=settings["weight_decay"]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: reasoner.learning_rate_factor(step, settings["steps"])
    )
    stream = reasoner.batches(reasoner.documents(*mix), tokenizer, settings["rows"], settings["length"])
    log, window, start = [], [], time.monotonic()
    for step in track(range(1, settings["steps"] + 1), "training", update_period=10):
        ids, weights = next(stream)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = reasoner.weighted_loss(logits, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        window.append(loss.item())
        if step % 50 == 0 or step == settings["steps"]:
            rate = schedule.get_last_lr()[0]
            tokens = step * settings["rows"] * settings["length"]
            log.append({"step": step, "tokens": tokens, "loss": sum(window) / len(window), "learning_rate": rate})
            log[-1]["seconds"] = round(time.monotonic() - start)
            print(*(f"{k}={v:.5g}" for k, v in log[-1].items()), flush=True)
            window = []

    measured = model.eval().to(torch.bfloat16).float()  # as shipped, and as it will be loaded
    sets = {
        "unseen_numbers": word_problems.sample("test", settings["templates"], settings["test_size"], seed=1),
        "unseen_templates": word_problems.sample(None, settings["held_out_templates"], 200, seed=1),
    }
    accuracy = {name: reasoner.accuracy(measured, tokenizer, problems) for name, problems in sets.items()}
    print(accuracy)
    with artifacts.atomic_directory(output) as directory:
        model.to(torch.bfloat16).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        pd.DataFrame(log).to_csv(directory / "training_log.csv", index=False, float_format="%.6g")
        content = {"accuracy": accuracy, "parameters": model.num_parameters()}
        artifacts.write_json(directory / "recipe.json", content, "reasoner", settings)
        (directory / "README.md").write_text(reasoner.model_card(settings, content, log), encoding="utf-8")


if __name__ == "__main__":
    cli.run(train_reasoner)

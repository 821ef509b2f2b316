"""Train the tiny reasoner from scratch on generated word problems (docs/tiny-reasoner.md).

Writes a Hugging Face model directory with its model card, recipe, training log and measured
accuracy. `make promote-reasoner` copies a finished one to resources/, which is what the
embedded default prunes; a fresh clone never trains.
"""

import time
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from pruning import cli


def train_reasoner(
    settings: cli.Settings,
    output: Annotated[Path, typer.Option(help="model directory to write")],
    threads: int = 1,
) -> None:
    cli.set_threads(threads)
    import pandas as pd
    import torch
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    from pruning import artifacts, reasoner, word_problems
    from pruning.response_cache import key_of

    torch.set_num_threads(threads)
    done = [
        key_of({**settings, "phases": None}, settings["phases"][: number + 1])
        for number in range(len(settings["phases"]))
    ]
    phases = [output.with_name(f".{output.name}.{key}") for key in done]
    for number, directory in enumerate(phases):
        if not directory.exists():
            train_phase(settings, number, phases[number - 1] if number else None, directory)
    model = Qwen2ForCausalLM.from_pretrained(phases[-1], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(phases[-1])
    log = pd.concat([pd.read_csv(p / "training_log.csv").assign(phase=n) for n, p in enumerate(phases)])
    sets = {
        "unseen_numbers": word_problems.sample("test", settings["templates"], settings["test_size"], seed=1),
        "unseen_templates": word_problems.sample(None, settings["held_out_templates"], 200, seed=1),
    }
    accuracy = {
        name: {
            "n": len(problems),
            "exact_match": reasoner.exact_match(model, tokenizer, problems, with_options=False),
            "exact_match_options": reasoner.exact_match(model, tokenizer, problems, with_options=True),
        }
        for name, problems in sets.items()
    }
    print(accuracy)
    with artifacts.atomic_directory(output) as directory:
        model.to(torch.bfloat16).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        log.to_csv(directory / "training_log.csv", index=False, float_format="%.6g")
        content = {"accuracy": accuracy, "parameters": model.num_parameters()}
        artifacts.write_json(directory / "recipe.json", content, "reasoner", settings)
        card = reasoner.model_card(settings, content, log.to_dict("records"))
        (directory / "README.md").write_text(card, encoding="utf-8")


def train_phase(settings: dict, number: int, start: Path | None, output: Path) -> None:
    """One phase of the schedule: from the model of the one before it (`start`), or from scratch with a new tokenizer.

    A phase ends in bfloat16, as the model is shipped; a killed training goes on after its last whole phase."""
    import pandas as pd
    import torch
    from rich.progress import track
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    from pruning import artifacts, reasoner

    phase, rows, length = settings["phases"][number], settings["rows"], settings["length"]
    torch.manual_seed(settings["seed"] + number)
    stream = (settings["templates"], settings["seed"] + number, phase)
    if start is None:
        texts = ("".join(text for text, _ in document) for document in reasoner.documents(*stream))
        tokenizer = reasoner.train_tokenizer(islice(texts, 20_000), settings["vocabulary"])
        model = reasoner.new_model(settings["shape"], tokenizer, settings["context"])
    else:
        tokenizer = AutoTokenizer.from_pretrained(start)
        model = Qwen2ForCausalLM.from_pretrained(start, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=phase["learning_rate"], betas=(0.9, 0.98), weight_decay=settings["weight_decay"]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: reasoner.learning_rate_factor(step, phase["steps"])
    )
    batches = reasoner.batches(reasoner.documents(*stream), tokenizer, rows, length)
    log, window, begin = [], [], time.monotonic()
    for step in track(range(1, phase["steps"] + 1), f"phase {number}", update_period=10):
        ids, weights = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = reasoner.weighted_loss(logits, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        window.append(loss.item())
        if step % 50 == 0 or step == phase["steps"]:
            row = {"step": step, "tokens": step * rows * length, "loss": sum(window) / len(window)}
            row |= {"learning_rate": schedule.get_last_lr()[0], "seconds": round(time.monotonic() - begin)}
            log, window = [*log, row], []
            print(*(f"{key}={value:.5g}" for key, value in row.items()), flush=True)
    with artifacts.atomic_directory(output) as directory:
        model.to(torch.bfloat16).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        pd.DataFrame(log).to_csv(directory / "training_log.csv", index=False)


if __name__ == "__main__":
    cli.run(train_reasoner)

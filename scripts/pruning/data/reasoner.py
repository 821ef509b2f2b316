"""The tiny reasoner: its training text, loss weights, model, schedule and training (docs/tiny-reasoner.md).

An optional part: all of it is behind `train`, and `promote`, by which a trained one is embedded.

A document is a list of (text, loss weight) segments. The weights decide whether a small model
learns to compute: a question's words cannot be predicted and would drown the signal, and so would
a drill's random operands, while every digit of a worked result counts in full.
"""

import copy
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import torch
from rich.progress import track
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from pruning.core import artifacts, cli
from pruning.data import arithmetic, mixture, word_problems

END = "<|endoftext|>"
QUESTION, SOLUTION, OPERANDS = 0.1, 1.0, 0.02
Document = list[tuple[str, float]]
LEAST_ACCURACY = 0.75
"""Of problems with unseen numbers: a model without accuracy to lose cannot show what pruning does."""


def train(settings: Mapping[str, Any], directory: Path, dense: Path | None = None) -> dict[str, Any]:
    """Train it, and write model, tokenizer, training_log.csv and README.md (the model card).

    settings: the config's section `reasoner`, with `mixture` where a mixture of experts is made of the `dense` model's
    directory. Returns its `accuracy` on two sets of problems and its `parameters`."""
    torch.manual_seed(settings["seed"])
    mix = (settings["templates"], settings["seed"], settings["drills"], settings["option_share"])
    if dense:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(dense)
        whole = Qwen2ForCausalLM.from_pretrained(dense, dtype=torch.float32)
        model, settings = mixture.upcycled(whole, settings["mixture"]), {**settings, **settings["mixture"]}
        mix = (settings["templates"], settings["seed"] + 1, *mix[2:])  # other documents than the dense model's
    else:
        texts = ("".join(text for text, _ in document) for document in documents(*mix))
        tokenizer = train_tokenizer(islice(texts, 20_000), settings["vocabulary"])
        model = new_model(settings["shape"], tokenizer, settings["context"])
    log = fit(model, batches(documents(*mix), tokenizer, settings["rows"], settings["length"]), settings)
    model.eval().to(torch.bfloat16).float()  # as shipped; measured as it will be loaded
    sets = {
        "unseen_numbers": word_problems.sample("test", settings["templates"], settings["test_size"], seed=1),
        "unseen_templates": word_problems.sample(None, settings["held_out_templates"], 200, seed=1),
    }
    measured = {name: accuracy(model, tokenizer, problems) for name, problems in sets.items()}
    print(measured)
    model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    pd.DataFrame(log).to_csv(directory / "training_log.csv", index=False, float_format="%.6g")
    content = {"accuracy": measured, "parameters": model.num_parameters()}
    (directory / "README.md").write_text(model_card(settings, content, log), encoding="utf-8")
    return content


def fit(model: Qwen2ForCausalLM, stream: Iterator[tuple[torch.Tensor, torch.Tensor]], settings: Mapping) -> list[dict]:
    """Train on so many batches; a row of the log every 50."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings["learning_rate"], betas=(0.9, 0.98), weight_decay=settings["weight_decay"]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, settings["steps"]))
    log, window, start = [], [], time.monotonic()
    for step in track(range(1, settings["steps"] + 1), "training", update_period=10):
        ids, weights = next(stream)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = weighted_loss(logits, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        window.append(loss.item())
        if step % 50 == 0 or step == settings["steps"]:
            tokens, rate = step * settings["rows"] * settings["length"], schedule.get_last_lr()[0]
            log.append({"step": step, "tokens": tokens, "loss": sum(window) / len(window), "learning_rate": rate})
            log[-1]["seconds"] = round(time.monotonic() - start)
            print(*(f"{k}={v:.5g}" for k, v in log[-1].items()), flush=True)
            window = []
    return log


def problem_document(problem: word_problems.Problem, *, with_options: bool) -> Document:
    """Prompt and worked solution; with options, also the letter of the right one."""
    values, letter = word_problems.options(problem) if with_options else (None, "")
    chosen = f"\nThe answer is ({letter})" if with_options else ""
    solution = f" {problem.answer}{chosen}{END}"
    return [(word_problems.prompt(problem.question, values), QUESTION), (solution, SOLUTION)]


def drill_document(rng: Random) -> Document:
    """Six lines of bare arithmetic."""
    document = []
    for _ in range(6):
        question, result = arithmetic.step(rng)
        document += [(question, OPERANDS), (f" {result}\n", SOLUTION)]
    return [*document, (END, SOLUTION)]


def documents(templates: Sequence[int], seed: int, drills: float, option_share: float) -> Iterator[Document]:
    """Endless training documents from the train split: a mix of drills, problems and problems with options."""
    rng = Random(seed)
    problems = word_problems.stream("train", templates, rng)
    while True:
        if rng.random() < drills:
            yield drill_document(rng)
        else:
            yield problem_document(next(problems), with_options=rng.random() < option_share)


def train_tokenizer(texts: Iterator[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every digit is a token of its own, so that numbers are written place by place."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )


def batches(
    stream: Iterator[Document], tokenizer: PreTrainedTokenizerFast, rows: int, length: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and loss weights, both [rows, length + 1], documents packed end to end."""
    ids, weights, need = [], [], rows * (length + 1)
    tokenizer.backend_tokenizer.no_padding()  # a tokenizer that has padded before goes on padding
    encode = tokenizer.backend_tokenizer.encode_batch
    while True:
        while len(ids) < need:
            segments = [segment for _ in range(64) for segment in next(stream)]
            for encoding, (_, weight) in zip(encode([text for text, _ in segments]), segments, strict=True):
                ids += encoding.ids
                weights += [weight] * len(encoding.ids)
        shape = (rows, length + 1)
        yield torch.tensor(ids[:need]).view(shape), torch.tensor(weights[:need]).view(shape)
        ids, weights = ids[need:], weights[need:]


def new_model(shape: dict, tokenizer: PreTrainedTokenizerFast, context: int) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights; `shape` holds Qwen2Config's own names."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=context,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **shape,
    )
    return Qwen2ForCausalLM(config)


def weighted_loss(logits: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean next-token cross-entropy; logits [rows, length, vocabulary], ids and weights [rows, length + 1]."""
    losses = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weight = weights[:, 1:].flatten()
    return (losses * weight).sum() / weight.sum()


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up over 100 steps, constant for half the run, then linear to 3%."""
    if step < 100:
        return (step + 1) / 100
    return 1.0 if step < steps / 2 else max(0.03, 1 - 0.97 * (step - steps / 2) / (steps / 2))


@torch.inference_mode()
def exact_match(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence, *, with_options: bool
) -> float:
    """Share of problems whose greedy solution ends in the right number (with options: the right letter)."""
    right = 0
    tokenizer = copy.deepcopy(tokenizer)  # padding leaves its mark on a tokenizer, and in what it saves
    for start in range(0, len(problems), 100):
        chunk = problems[start : start + 100]
        answers = [word_problems.options(p) if with_options else (None, p.final) for p in chunk]
        prompts = [word_problems.prompt(p.question, values) for p, (values, _) in zip(chunk, answers, strict=True)]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        output = model.generate(
            inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=192, do_sample=False
        )
        texts = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        ends = [f"The answer is ({a})" if with_options else f"#### {a}" for _, a in answers]
        right += sum(text.rstrip().endswith(end) for text, end in zip(texts, ends, strict=True))
    return right / len(problems)


def accuracy(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, problems: Sequence) -> dict[str, float]:
    """`n` problems, and the `exact_match` of worked answers and, `exact_match_options`, of chosen ones."""
    worked, chosen = (exact_match(model, tokenizer, problems, with_options=options) for options in (False, True))
    return {"n": len(problems), "exact_match": worked, "exact_match_options": chosen}


def model_card(settings: Mapping, content: Mapping, log: list[dict]) -> str:
    """The model's README: what it is, what it was trained on, what it scored."""
    rows = "\n".join(
        f"| {name.replace('_', ' ')} | {s['n']} | {s['exact_match']:.1%} | {s['exact_match_options']:.1%} |"
        for name, s in content["accuracy"].items()
    )
    shape, mixed = settings["shape"], settings.get("mixture")
    templates, held_out = (", ".join(map(str, settings[key])) for key in ("templates", "held_out_templates"))
    layers, width, ffn = (shape[key] for key in ("num_hidden_layers", "hidden_size", "intermediate_size"))
    tokens, minutes = log[-1]["tokens"] / 1e6, log[-1]["seconds"] / 60
    size = f"{content['parameters'] / 1e6:.2f} M parameters ({layers} layers, width {width}, FFN {ffn})"
    what, made = f"A Qwen2-architecture causal language model with {size}, trained from scratch to", ""
    if mixed:
        experts = f"{mixed['experts']} experts of which {mixed['active']} are active, beside a shared one"
        what = f"A Qwen2-MoE-architecture causal language model with {size.replace(f', FFN {ffn}', '')}, {experts}, to"
        made = " from the dense tiny-reasoner on,"
    training = f"{tokens:.1f} M tokens ({minutes:.0f} minutes on two CPU cores)"
    return f"""# tiny-{"mixture" if mixed else "reasoner"}

{what}
solve grade-school word problems step by step. It exists to be pruned: a model that really reasons, small enough to
calibrate, prune and evaluate on a laptop. It knows nothing else.

Trained by `scripts/train_reasoner.py`{made} on {training}: problems generated by reasoning-gym's
`gsm_symbolic` (templates {templates})
and arithmetic drills; seed {settings["seed"]}. The recipe with every setting is in `recipe.json`, the loss in
`training_log.csv`. Weights are stored in bfloat16.

Splits are by (template, number tuple), never by seed: no test problem shares its numbers with a training
problem of the same template. Templates {held_out} were held out entirely.

| greedy exact match | problems | worked answer | with 5 options |
|---|---|---|---|
{rows}
"""


def promote(trained: Path, resources: Path) -> None:
    """Copy what scripts/train_reasoner.py wrote to a folder of resources/, where the embedded default reads it.

    Raises InputError for one that solves fewer than LEAST_ACCURACY."""
    measured = artifacts.read_json(trained / "recipe.json", "reasoner")["accuracy"]["unseen_numbers"]
    solved = f"{measured['exact_match']:.1%} of {measured['n']} problems with unseen numbers"
    if measured["exact_match"] < LEAST_ACCURACY:
        raise cli.InputError(f"{trained}: solves {solved}, {LEAST_ACCURACY:.0%} are needed: train longer")
    with artifacts.atomic_directory(resources) as directory:
        shutil.copytree(trained, directory, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    print(f"{resources}: {solved}")


if __name__ == "__main__":
    cli.run(promote)

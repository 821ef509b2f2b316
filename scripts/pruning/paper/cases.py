"""Whole answers of one model to a few records of a data file, and how far they degenerate (the paper's Table 5)."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.models.utils import postprocess_generated_text
from transformers import GenerationConfig

from pruning.core import artifacts, out_of_memory
from pruning.core.errors import InputError
from pruning.evaluation.backends import end_tokens
from pruning.evaluation.degeneration import extract_answer, final_loop, repetition
from pruning.methods.variants import Parts
from pruning.models import packing
from pruning.report.files import Files


def write(files: Files, settings: Mapping[str, Any], outputs: Sequence[Path]) -> None:
    """Write cases.json: `cases`, a list of `item`, `prompt`, `target`, `target_answer`, `text`, `tokens` (without the
    end token), `finish` (`stop` or `length`), `repetition`, `final_loop`, `format_failure`, `answer` (or null),
    `correct`.

    Files: `data`, parquet of the items' split, and what variants.Parts is made of, beside its scheme `compensate`.
    Settings: `items`, row numbers of the data; `prompt` and `target`, templates with the record's fields in braces;
    `chat_template`, whether prompts are put in chat format; `tokens` to generate, stopping only at the end token;
    `answer_pattern`, a regular expression whose group 1 is the answer, looked for before the first of the strings
    `until` (if given) and in the target (a target without it is itself the answer); `dtype`. Raises InputError as the
    functions below do."""
    data, pattern = files.one("data"), settings["answer_pattern"]
    parts = Parts.of({name: str(files.one(name)) for name in files.named if name != "data"})
    check_pattern(pattern)
    prompts, targets = texts(artifacts.read_table(data, "dataset").to_pylist(), data, settings)
    network, tokenizer = parts.load(settings["dtype"])
    packing.pack(network)
    asked = in_chat_format(tokenizer, prompts) if settings.get("chat_template") else prompts
    with out_of_memory.advise(f"`cases: items`: {len(prompts)} are generated at once: name fewer"):
        generated = generate(network, tokenizer, asked, settings["tokens"])
    records = []
    for item, prompt, target, (tokens, finish) in zip(settings["items"], prompts, targets, generated, strict=True):
        text = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        own = postprocess_generated_text(text, settings.get("until"), None)
        answer, right = extract_answer(own, pattern), extract_answer(target, pattern) or target.strip()
        asked = {"item": item, "prompt": prompt, "target": target, "target_answer": right}
        written = {"text": text, "tokens": len(tokens), "finish": finish}
        found = {"repetition": repetition(tokens), "final_loop": final_loop(tokens)}
        found |= {"format_failure": answer is None, "answer": answer, "correct": answer == right}
        records.append({**asked, **written, **found})
        print(f"item {item}: {answer} for {right}, {len(tokens)} tokens")
    origin = {**settings, "model": parts.identity(), "data": artifacts.file_hash(data)}
    artifacts.write_json(outputs[0], {"cases": records}, "cases", origin)


def check_pattern(pattern: str) -> None:
    """Raise InputError unless the pattern is a regular expression with a group."""
    try:
        if re.compile(pattern).groups == 0:
            raise InputError(f"answer_pattern: {pattern!r} has no group; put brackets around the answer")
    except re.error as error:
        raise InputError(f"answer_pattern: {pattern!r} is no regular expression ({error})") from None


def texts(records: list[dict], data: Path, settings: dict) -> tuple[list[str], list[str]]:
    """Prompts and targets of the items. Raises InputError if an item or a field is not in the data."""
    if outside := [item for item in settings["items"] if not 0 <= item < len(records)]:
        raise InputError(
            f"items: {outside} not in {data}, which has {len(records)} records, numbered from 0; choose others"
        )
    chosen = [records[item] for item in settings["items"]]
    try:
        return tuple([settings[key].format_map(record) for record in chosen] for key in ("prompt", "target"))
    except KeyError as field:
        raise InputError(f"{data}: prompt or target needs a field {field}; it has {sorted(records[0])}") from None


def in_chat_format(tokenizer, prompts: list[str]) -> list[str]:
    """Each prompt as the user's turn. Raises InputError if the tokenizer has no chat format."""
    if not tokenizer.chat_template:
        raise InputError("cases.chat_template: this model's tokenizer has none: set it to false")
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    return [tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns]


def generate(network, tokenizer, prompts: list[str], tokens: int) -> list[tuple[list[int], str]]:
    """Each prompt's greedy continuation, at most `tokens` long and without the end token, and its finish reason."""
    ends = end_tokens(network.generation_config, tokenizer)
    # A model's own generation settings may hold a repetition penalty, which would hide what is measured here.
    network.generation_config = GenerationConfig(
        max_new_tokens=tokens, do_sample=False, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    started = bool(tokenizer.bos_token) and prompts[0].startswith(tokenizer.bos_token)  # as data/text.py has it
    options = {"padding": True, "padding_side": "left", "return_tensors": "pt"}
    inputs = tokenizer(prompts, add_special_tokens=not started, **options)
    inputs = inputs.to(network.get_input_embeddings().weight.device)
    rows = network.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    found = []
    for row in rows[:, inputs["input_ids"].shape[1] :].tolist():
        stop = next((place for place, token in enumerate(row) if token in ends), None)
        found.append((row[:stop], "length" if stop is None else "stop"))
    return found

"""Evaluation throughput: lm-eval's own class, ours, and transformers' continuous batching, in turn on one model.

Generated word problems are asked with worked examples before them. Prints seconds, problems and tokens a second, the
ratio to lm-eval's class, and how many answers are the same, those that were ended in a loop counted apart.

    python benchmarks/generation.py resources/tiny-reasoner --problems 400 --examples 0 --batch 100 --tokens 192
    python benchmarks/generation.py results/smollm2-135m/base --problems 24 --examples 3 --batch 24 --threads 2
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from common import ROOT, seconds
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM
from transformers import GenerationConfig

from pruning.core.artifacts import key_of
from pruning.data import word_problems
from pruning.evaluation.answers import AnswerFile, CachingLM
from pruning.evaluation.backends.hf import HuggingFaceLM
from pruning.models import loading

STOPS = ["Question:"]


class ContinuousHFLM(HFLM):
    """lm-eval's class on transformers' continuous batching, which knows no stop strings, only the end token."""

    def _model_generate(self, context, max_length, stop, attention_mask, **_):
        prompts = [row[mask.bool()].tolist() for row, mask in zip(context, attention_mask, strict=True)]
        tokenizer, limit = self.tokenizer, max_length - context.shape[1]
        config = GenerationConfig(
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        made = self.model.generate_batch(prompts, generation_config=config)
        rows = [made[key].generated_tokens for key in sorted(made, key=lambda k: int(k.rsplit("_", 1)[-1]))]
        padded = [row + [tokenizer.pad_token_id] * (limit - len(row)) for row in rows]
        return torch.cat([context, torch.tensor(padded)], dim=1)


def main(
    model: Annotated[Path, typer.Argument(help="model directory")],
    problems: int = 100,
    examples: int = 3,
    batch: int = 50,
    tokens: int = 192,
    threads: int = 1,
    dtype: str = "float32",
    continuous: bool = False,
) -> None:
    torch.set_num_threads(threads)
    network, tokenizer = loading.load(model, dtype)
    for own in compared(network, tokenizer, prompts(problems, examples), batch, tokens, continuous):
        print(
            f"{own['name']}: {own['seconds']:.1f} s, {problems / own['seconds']:.2f} problems/s, "
            f"{own['tokens'] / own['seconds']:.0f} tokens/s, {own['ratio']:.2f}x; {own['same']} of {problems} answers "
            f"as lm-eval's" + (f", {own['looped']} of the others ended in a loop" if own["looped"] else "")
        )


def prompts(problems: int, examples: int) -> list[str]:
    """Return so many, each after the same worked examples."""
    templates = yaml.safe_load((ROOT / "config/config.yaml").read_text())["datasets"]["gsm_symbolic"]["templates"]
    drawn = word_problems.sample("test", templates, problems + examples, 0)
    worked = "".join(f"Question: {p.question}\nAnswer: {p.answer}\n\n" for p in drawn[:examples])
    return [f"{worked}Question: {p.question}\nAnswer:" for p in drawn[examples:]]


def requests(texts: list[str], tokens: int) -> list[Instance]:
    arguments = {"until": STOPS, "max_gen_toks": tokens, "do_sample": False}
    return [Instance("generate_until", {}, (text, arguments), i) for i, text in enumerate(texts)]


def answered(lm: LM, asked: list[str], tokens: int) -> tuple[list[str], float]:
    """Return the answers, and the seconds that they took."""
    lm.generate_until(requests([asked[0] + " "], tokens), disable_tqdm=True)  # warm up
    answers: list[str] = []
    took = seconds(lambda: answers.extend(lm.generate_until(requests(asked, tokens), disable_tqdm=True)))
    return answers, took


def compared(
    network: torch.nn.Module, tokenizer: Any, asked: list[str], batch: int, tokens: int, continuous: bool = False
) -> list[dict[str, Any]]:
    """Return of each class `name`, `seconds`, `tokens` written, `ratio` of lm-eval's seconds to these, how many answers
    are the `same` as lm-eval's, and how many others ended in a loop (`looped`)."""
    with tempfile.TemporaryDirectory() as folder:
        cached = AnswerFile(Path(folder) / "answers.jsonl")
        lms: dict[str, Callable[[], LM]] = {
            "lm-eval": lambda: HFLM(pretrained=network, tokenizer=tokenizer, batch_size=batch, backend="causal"),
            "ours": lambda: CachingLM(HuggingFaceLM(network, tokenizer, batch), cached),
        }
        if continuous:
            lms["continuous batching"] = lambda: ContinuousHFLM(
                pretrained=network, tokenizer=tokenizer, batch_size=len(asked), backend="causal"
            )
        answers = {name: answered(make(), asked, tokens) for name, make in lms.items()}
        finishes = [cached[key_of("generate_until", each.args)]["finish"] for each in requests(asked, tokens)]
    rows, (wanted, slow) = [], answers["lm-eval"]
    for name, (own, took) in answers.items():
        same = [a == b for a, b in zip(own, wanted, strict=True)]
        looped = sum(not s and f == "loop" for s, f in zip(same, finishes, strict=True)) if name == "ours" else 0
        written = sum(len(tokenizer(text)["input_ids"]) for text in own)
        rows.append({"name": name, "seconds": took, "tokens": written, "ratio": slow / took, "same": sum(same)})
        rows[-1]["looped"] = looped
    return rows


if __name__ == "__main__":
    typer.run(main)

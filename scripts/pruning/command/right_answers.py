"""The dense model's own right answers, on which pruned models are calibrated and by which they are chosen."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from pruning.command import configuration, efforts, own_data
from pruning.command.configuration import LEAST_TOKENS
from pruning.command.known import Known, Own
from pruning.command.running import START, put, run
from pruning.core import artifacts, names
from pruning.core.errors import InputError
from pruning.data import text

LEAST_ANSWERS, LEAST_SHARE = 40, 0.25
"""Right answers, and their share of the effort's own tokens, that are enough to calibrate on."""
FIRST_ASKED, THEN_ASKED, LEAST_RIGHT = 25, 50, 0.1
"""After the first 25 training questions a model that answers less than half of this share right is asked no more, after
50 one that answers less than all of it. By chance a model that has 25% right has at most one of 25 once in 140 times,
one that has 15% once in 11; and that one has fewer than 5 of 50 once in 9."""
MORE = 1.1  # times as many questions as are expected to give the tokens


def collect(known: Known, ask: bool = True) -> tuple[Own | None, list[str]]:
    """Have the dense model answer questions of each part until it has said enough; return what is known then, and what
    is to be said of it. ask: or else by what an earlier run asked; where that is too little to tell, nothing is new.
    An edited configuration that does not ask the training questions is not made to."""
    train, others = "train", ["validation", "test"]
    if not known.own:
        return None, []
    if known.mine and own_data.ASKING[train] not in known.mine.config.tasks:
        return Own(0, {}), []
    wanted, most = known.effort.tokens[known.kind], known.own.asked
    usual = efforts.read(known.request.effort).tokens[known.kind]  # --tokens asks for as many as there are
    earlier = known.request.out / names.DENSE.samples(known.alias, own_data.ASKING[train])
    there = len(artifacts.read_parquet(earlier, "samples")) if earlier.is_file() else 0
    needed = min(max(FIRST_ASKED, there), len(known.answers.records[train]))  # an earlier run's are not asked again
    asked, lengths, few = 0, [], False
    while needed > asked:
        # The test questions' job, which comes in any case, keeps busy what the training questions' leaves idle.
        beside = ["test"] if known.answers.records["test"] and asked and ask and not few else []
        if not (found := answered(known, Own(needed), [train, *beside], ask)):
            return known.own, []
        asked, lengths, _ = found[0]
        if asked < needed and not ask:
            return known.own, []
        few, least = len(lengths) < LEAST_RIGHT * asked, LEAST_RIGHT / (1 if asked >= THEN_ASKED else 2)
        short = max(wanted / max(1, sum(lengths)), LEAST_ANSWERS / max(1, len(lengths)))  # times as much is needed
        if known.mine or len(lengths) < least * asked or short <= 1:
            break
        needed = min(most, THEN_ASKED if few else math.ceil(MORE * asked * short))
    remedy = ""
    said = f"The dense model answers {len(lengths)} of {asked} training questions right and to the end"
    enough = len(lengths) >= LEAST_ANSWERS and sum(lengths) >= LEAST_SHARE * min(wanted, usual)
    if enough and known.answers.records["validation"]:
        short = max(configuration.RIGHT[known.kind] / len(lengths), LEAST_TOKENS / sum(lengths))
        validation = min(asked // configuration.ASKED_OF, round(MORE * asked * short))
        if not (found := answered(known, Own(asked, validation=validation), others, ask)):
            return known.own, []
        tokens = {part: sum(each.tokens) for part, each in zip(others, found, strict=True)}
        if min(tokens.values()) >= LEAST_TOKENS:  # as many as of any text
            said += f". Models are calibrated on these answers ({sum(lengths):,} tokens) and chosen by the perplexity "
            said += "of those to validation questions. Your data's own text they predict worse."
            units = {"token": [each.tokens for each in found], "byte": [each.bytes for each in found]}
            longest = {unit: max(chain(*each)) for unit, each in units.items()}
            return Own(asked, {train: sum(lengths), **tokens}, False, validation, longest), [said]
        remedy = " (--questions asks more)" * (tokens["test"] < LEAST_TOKENS)
        counted = " and ".join(f"{count:,} tokens to {part} questions" for part, count in tokens.items())
        said += f", and its right answers have {counted}"
    said += f", too few to calibrate on{remedy}: models are calibrated on the data's own answers."
    own = Own(asked, {}, rare=len(lengths) < LEAST_RIGHT * asked)
    fewer = configuration.questions(replace(known, own=own))
    if fewer < len(known.answers.records["test"]) and not known.mine:
        said += f" So few right answers tell no models apart: of the test questions {fewer} are asked; "
        said += "--questions asks more."
    return own, [said]


def of_others(known: Known) -> list[str]:
    """Return a note where a smaller vocabulary keeps the tokens of text that the model did not write. With those of
    gold solutions a fifth of a model's answers did not end (docs/howto/vocabulary.md)."""
    cut = any(method.vocabulary for method in known.compared.values())
    if known.calibrates_on_answers or not known.answers or not cut:
        return []
    said = "--vocabulary keeps the tokens of your data's own answers first. The model words its answers otherwise: "
    said += "some may not end, so look how many are cut off, or keep more tokens."
    if known.request.effort == "quick":
        said += " `standard` keeps those of the model's own right answers, where there are enough of these."
    return [said]


class Answered(NamedTuple):
    """What the dense model answered to a part's questions."""

    asked: int
    tokens: list[int]  # of each right answer, with its question
    bytes: list[int]  # likewise


def answered(known: Known, own: Own, parts: Sequence[str], ask: bool) -> list[Answered]:
    """Return what is answered of each part. ask: the dense model is asked as many as `own` says; or else nothing is
    returned where it was not asked before."""
    from pruning.models import tokenizers  # slow

    request, out = known.request, known.request.out
    tasks = [own_data.ASKING[part] for part in parts]
    paths = [names.DENSE.samples(known.alias, task) for task in tasks]
    if ask:
        if not known.mine:
            content = configuration.build(replace(known, own=own), [])
            put(out / START, configuration.text(content, "prune, before it prunes"))
        alone = "evaluate" if all((out / path).is_file() for path in paths[1:]) else None
        run(request, f"answering the {' and '.join(parts)} questions", *paths, config=known.config, alone=alone)
    elif not all((out / path).is_file() for path in paths):
        return []
    tokenizer, found = tokenizers.load(known.folder), []
    for task, path in zip(tasks, paths, strict=True):
        samples = artifacts.read_parquet(out / path, "samples")
        try:
            right = text.own_answers(samples, task, own_data.METRIC)
        except InputError:  # none is right
            right = samples[:0].assign(completion=[])
        pairs = [*zip(right["prompt"], right["completion"], strict=True)]
        tokens = [sum(map(len, text.tokens(*pair, tokenizer))) for pair in pairs]
        found.append(Answered(len(samples), tokens, [len("".join(pair).encode()) for pair in pairs]))
    return found

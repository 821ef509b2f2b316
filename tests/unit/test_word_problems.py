"""Generated word problems: splits without leakage, honest options, and drills and loss weights for training."""

import hashlib
import re
from collections import Counter
from functools import cache
from itertools import combinations, islice, product
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_arithmetic import evaluated

from pruning.config.default import DEFAULT
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.data import reasoner, word_problems
from pruning.data.word_problems import LETTERS, Problem, generate, options, prompt, sample, solutions

SPLITS = ("train", "validation", "test")
TEMPLATES = DEFAULT.datasets["gsm_symbolic"].templates
HELD_OUT = [1, 12, 31, 43, 55, 62]
FEW = [4, 9, 14, 20]  # with more problems than are asked for here
SCARCE = 6  # with about ten test problems
# A week is a 7 and a month a 30, in words (template 95).
NUMBER_IN_QUESTION = re.compile(r"\d+(?:\.\d+)?|week|month")


@cache
def problems(split: str, seed: int = 0, templates: tuple = tuple(FEW), size: int = 60) -> list[Problem]:
    return sample(split, templates, size, seed)


def of_all_templates(split: str) -> list[Problem]:
    return problems(split, 0, tuple(TEMPLATES), 20 * len(TEMPLATES))


def made_up(numbers: str, name: str = "Ann", template: int = 4) -> Problem:
    return Problem(template, f"{name} has {numbers}?", f"{name} counts {numbers}.\n#### {numbers.split()[-1]}")


# splits


def test_splits_share_no_template_and_numbers_of_the_question():
    keys = [
        {(p.template, tuple(NUMBER_IN_QUESTION.findall(p.question))) for p in of_all_templates(split)}
        for split in SPLITS
    ]
    assert all(a.isdisjoint(b) for a, b in combinations(keys, 2))


def test_the_split_is_a_hash_of_template_and_numbers_whatever_the_names_and_so_the_same_for_ever():
    for numbers, name, template in product((f"{n} 3" for n in (*range(20), 0.5)), ("Ann", "Bartholomew"), (4, 9)):
        problem = made_up(numbers, name, template)
        assert problem.numbers == (*numbers.split(), "3")  # the final answer once more
        bucket = hashlib.sha256(repr((template, problem.numbers)).encode()).digest()[0] % 10
        assert problem.split == {0: "test", 1: "validation"}.get(bucket, "train")


def test_stream_yields_its_own_split_only():
    assert {p.split for p in islice(word_problems.stream("train", FEW, Random(0)), 40)} == {"train"}


# samples


@pytest.mark.parametrize("split", SPLITS)
def test_samples_are_distinct_of_their_split_and_balanced(split):
    found = problems(split)
    assert {p.split for p in found} == {split}
    assert len({(p.template, p.numbers) for p in found}) == len(found) == 60
    assert Counter(p.template for p in found) == dict.fromkeys(FEW, 15)


def test_where_a_template_runs_out_the_others_fill_in():
    counts = Counter(p.template for p in sample("test", [SCARCE, 9], 60, 0))
    assert counts[SCARCE] < 20
    assert counts[SCARCE] + counts[9] == 60


def test_samples_repeat_with_the_seed_and_only_with_it():
    assert sample("test", FEW, 8, 5) == sample("test", FEW, 8, 5)
    assert sample("test", FEW, 8, 5) != sample("test", FEW, 8, 6)


def test_more_problems_than_there_are_is_an_error(monkeypatch):
    monkeypatch.setattr(
        word_problems, "generate", lambda t, rng, difficulty: made_up(f"{rng.randint(1, 7)}", template=t)
    )
    assert len(sample(None, [1, 2], 14, 0)) == 14
    with pytest.raises(ValueError, match=r"templates \[1, 2\] hold only about 14 distinct problems, 15 were asked"):
        sample(None, [1, 2], 15, 0)
    with pytest.raises(KeyError):
        generate(10_000, Random(0))


# options


def of_every_template(each: int = 6) -> list[Problem]:
    return [generate(template, Random(n)) for template in [*TEMPLATES, *HELD_OUT] for n in range(each)]


def test_options_hold_the_right_answer_once_with_its_letter():
    """And are a function of the problem, whose worked solution ends in its answer."""
    for problem in of_every_template():
        assert re.fullmatch(r"-?\d+(\.\d+)?", problem.final) and problem.answer.endswith(f"#### {problem.final}")
        values, letter = options(problem)
        assert (values, letter) == options(Problem(problem.template, problem.question, problem.answer))
        assert len(values) == 5
        right = float(problem.answer.split("####")[1])
        assert [float(value) == right for value in values] == [letter == other for other in LETTERS]
        assert len({float(value) for value in values}) == 5


def test_no_letter_gives_the_answer_away():
    letters = Counter(options(made_up(f"{n} {n * 7}"))[1] for n in range(1000))
    assert set(letters) == set(LETTERS)
    assert max(letters.values()) < 260


def test_prompts_by_hand():
    assert prompt("1+1?") == "Question: 1+1?\nAnswer:"
    assert prompt("1+1?", list("12345")) == "Question: 1+1?\nOptions: (A) 1 (B) 2 (C) 3 (D) 4 (E) 5\nAnswer:"


# drills and training text


@given(st.integers(0, 10**9))
def test_drills_are_right(seed):
    *lines, end = reasoner.drill_document(Random(seed))
    assert end == ("<|endoftext|>", 1.0)
    for (question, low), (result, high) in zip(lines[::2], lines[1::2], strict=True):
        assert (low, high) == (0.02, 1.0) and result == f" {evaluated(question)}\n"


def test_a_problem_document_weighs_the_solution_in_full_and_ends_in_the_right_letter():
    problem = problems("train")[0]
    values, letter = options(problem)
    for with_options, shown, end in ((False, None, ""), (True, values, letter)):
        solution = f" {problem.answer}" + (f"\nThe answer is ({end})" if end else "")
        expected = [(prompt(problem.question, shown), 0.1), (f"{solution}<|endoftext|>", 1.0)]
        assert reasoner.problem_document(problem, with_options=with_options) == expected


def test_worked_options_by_hand():
    problem = Problem(4, "How many?", "She has 6 * 4 = 24 and 24 more.\nThat is 24 + 24 = 48 cakes.\n#### 48")
    written, gold = solutions(problem)
    assert written[gold] == problem.answer
    wrong = [text for text in written if text != problem.answer]
    assert len(set(wrong)) == 4
    for text in wrong:
        value = text.rsplit("#### ")[1]
        assert text == f"She has 6 * 4 = 24 and 24 more.\nThat is 24 + 24 = {value} cakes.\n#### {value}"


def test_worked_options_hold_the_answer_once_and_differ_in_the_result_only():
    for problem in of_every_template(each=2):
        written, gold = solutions(problem)
        assert len(set(written)) == 5
        assert written.index(problem.answer) == gold
        lengths = {len(re.split(r"\d+", text)) for text in written}
        assert len(lengths) == 1


def documents():
    rng = Random(0)
    yield from ([(f"Question {n}: was 12 mal 30? =", 0.1), (f" {360 + n}\n<|endoftext|>", 1.0)] for n in range(100))
    while True:
        yield reasoner.drill_document(rng)


@pytest.fixture(scope="module")
def tokenizer():
    texts = ("".join(text for text, _ in document) for document in islice(documents(), 150))
    return reasoner.train_tokenizer(texts, 300)


def test_loss_weights_belong_to_the_tokens_of_their_segment(tokenizer):
    """Put the tokens of equal weight back together: they read as the segments did."""
    stream = reasoner.batches(documents(), tokenizer, rows=3, length=40)
    made = [next(stream) for _ in range(30)]
    assert all(ids.shape == weights.shape == (3, 41) for ids, weights in made)
    ids, weights = (torch.cat([tensor.flatten() for tensor in kind]).tolist() for kind in zip(*made, strict=True))
    segments = [segment for document in islice(documents(), 200) for segment in document]
    for weight in (0.02, 0.1, 1.0):
        own = [i for i, w in zip(ids, weights, strict=True) if w == pytest.approx(weight)]
        text = "".join(text for text, w in segments if w == weight)
        assert len(own) > 100
        assert text.startswith(tokenizer.decode(own, skip_special_tokens=False))
    assert "".join(text for text, _ in segments).startswith(tokenizer.decode(ids, skip_special_tokens=False))


def test_every_digit_is_a_token(tokenizer):
    often_seen_together = "123036"
    assert tokenizer.convert_ids_to_tokens(tokenizer(often_seen_together)["input_ids"]) == list(often_seen_together)
    assert tokenizer("<|endoftext|>")["input_ids"] == [tokenizer.eos_token_id]


def test_weighted_loss_by_hand():
    torch.manual_seed(0)
    logits, ids = torch.randn(2, 3, 5), torch.randint(0, 5, (2, 4))
    weights = torch.tensor([[9.0, 0.0, 1.0, 0.5], [9.0, 1.0, 0.0, 0.0]])  # the first token is predicted by none
    total = 0.0
    for row, t in ((0, 1), (0, 2), (1, 0)):
        total -= logits[row, t].log_softmax(0)[ids[row, t + 1]].item() * weights[row, t + 1].item()
    assert reasoner.weighted_loss(logits, ids, weights).item() == pytest.approx(total / 2.5)


@pytest.mark.parametrize("solved", [0.75, 0.74])
def test_a_reasoner_is_embedded_only_if_it_reasons(solved, tmp_path):
    trained, resources = tmp_path / "trained", tmp_path / "resources"
    trained.mkdir()
    resources.mkdir()
    (resources / "of an earlier one").touch()
    measured = {"accuracy": {"unseen_numbers": {"exact_match": solved, "n": 100}}}
    artifacts.write_json(trained / "recipe.json", measured, "reasoner", {})
    if solved < reasoner.LEAST_ACCURACY:
        with pytest.raises(InputError, match=r"solves 74.0% of 100 problems .*, 75% are needed: train longer"):
            reasoner.promote(trained, resources)
        assert [file.name for file in resources.iterdir()] == ["of an earlier one"]
    else:
        reasoner.promote(trained, resources)
        assert [file.name for file in resources.iterdir()] == ["recipe.json"]

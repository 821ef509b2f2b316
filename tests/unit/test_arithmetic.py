"""Arithmetic questions: right, distinct, and of one split only."""

import re
from itertools import combinations, islice
from operator import add, mul, sub, truediv

import pytest

from pruning.data.arithmetic import questions

SPLITS = {split: list(islice(questions(split, 0), 400)) for split in ("train", "validation", "test")}


def evaluated(line: str) -> str:
    """By Python's own arithmetic; every division comes out even."""
    a, operator, b = re.fullmatch(r"(\d+) ?([-+*/]) ?(\d+) ?=?", line.strip()).groups()
    value = {"+": add, "-": sub, "*": mul, "/": truediv}[operator](int(a), int(b))
    assert value == int(value)
    return str(int(value))


@pytest.mark.parametrize("split", SPLITS)
def test_every_line_is_right(split: str):
    for prompt, answer in SPLITS[split]:
        *worked, asked = prompt.split("\n")
        assert len(worked) == 3
        assert evaluated(asked) == answer
        for line in worked:
            sum_, result = line.split("= ")
            assert evaluated(sum_) == result


def test_splits_share_no_sum():
    asked = {split: {p.split("\n")[-1].replace(" ", "") for p, _ in items} for split, items in SPLITS.items()}
    assert all(len(sums) > 380 for sums in asked.values())  # few differ by spaces alone
    assert all(a.isdisjoint(b) for a, b in combinations(asked.values(), 2))


def test_the_same_seed_asks_the_same_and_another_does_not():
    assert list(islice(questions("test", 0), 20)) == SPLITS["test"][:20]
    assert list(islice(questions("test", 1), 20)) != SPLITS["test"][:20]


def test_answers_are_not_negative_and_all_operations_occur():
    for items in SPLITS.values():
        assert all(int(answer) >= 0 for _, answer in items)
        assert {c for p, _ in items for c in p.split("\n")[-1] if c in "+-*/"} == set("+-*/")

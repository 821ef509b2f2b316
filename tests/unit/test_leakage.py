"""Leakage: what counts as a copy, and what does not."""

import pandas as pd

from pruning.core import artifacts
from pruning.report.files import Files
from pruning.report.leakage import ngrams, overlap, text_of, words, write


def test_case_punctuation_and_spacing_do_not_hide_a_copy():
    assert words("Tom has 12 apples.") == ["tom", "has", "1", "2", "apples"]
    assert overlap(["Tom has\n12 APPLES"], ["tom has 12 apples!"], n=3) == (1, 1)


def test_words_are_those_of_any_script():
    assert words("Élan, naïve_x") == ["élan", "naïve", "x"]
    assert overlap(["有三个苹果", "Три яблока"], ["有四个梨", "Две груши"], n=3) == (0, 0)
    assert overlap(["Три яблока!"], ["три  яблока"], n=3) == (1, 1)


def test_half_of_the_ngrams_is_an_overlap_and_less_is_none():
    source = ["a b c d e"]
    assert ngrams(["a", "b", "c"], 2) == {("a", "b"), ("b", "c")}
    assert overlap(source, ["a b c x y"], n=2) == (0, 1)  # ab, bc of ab bc cx xy
    assert overlap(source, ["a b x y z"], n=2) == (0, 0)  # ab of ab bx xy yz
    assert overlap(source, ["e"], n=2) == (0, 0)  # shorter than n: only the same short text would do


def test_all_text_of_a_record_counts():
    record = {"question": "q", "choices": {"text": ["a", "b"], "label": ["A"]}, "gold": 2, "options": ["c"]}
    record |= {"passage": {"title": "p", "turns": [{"said": "s"}]}, "empty": ""}
    assert text_of(record) == "q a b A c p s"


def test_the_stage_counts_the_items_that_are_used(tmp_path):
    frames = {
        "train": ["x y z", "four five six", "", "seven eight nine"],
        "test": ["one two three", "seven eight nine", "four five six", " ."],  # WikiText has records without words
    }
    for name, texts in frames.items():
        artifacts.write_parquet(tmp_path / f"{name}.parquet", pd.DataFrame({"text": texts}), "dataset", {})
    tasks = {"t": {"path": str(tmp_path / "test.parquet"), "first": 1, "limit": 3}}
    train = {"path": str(tmp_path / "train.parquet"), "first": 0}
    sources = {"c": {**train, "limit": 3}, "all": {**train, "limit": None}}  # of answers to the first three alone
    settings = {"sources": sources, "tasks": tasks, "n": 2}
    write(Files(()), settings, [tmp_path / "out.csv"])
    assert pd.read_csv(tmp_path / "out.csv").to_dict("records") == [
        {"source": "c", "task": "t", "items": 2, "identical": 1, "overlapping": 1, "n": 2},
        {"source": "all", "task": "t", "items": 2, "identical": 2, "overlapping": 2, "n": 2},
    ]

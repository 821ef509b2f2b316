"""The answer file: what is written stays, a killed writer costs one line at most, an altered line is not believed."""

import hashlib
import json

import numpy as np
import pytest
import torch

from pruning.core.artifacts import key_of
from pruning.evaluation.answers import AnswerFile

AGAIN = "what no sound line answers is asked again"
A, B, C = (key_of("generate_until", [text, {"until": ["\n"]}]) for text in "abc")
FIRST, SECOND = {"response": "eins", "tokens": 4, "finish": "stop"}, {"response": [-1.5, True]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results" / ".task.jsonl"


def filled(path) -> AnswerFile:
    answers = AnswerFile(path)
    answers.add(A, FIRST)
    answers.add(B, SECOND)
    return answers


def test_records_are_there_at_once_and_after_reopening(path):
    assert AnswerFile(path) == {}
    for answers in (filled(path), AnswerFile(path)):
        assert answers == {A: FIRST, B: SECOND}
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == [A, B]  # without closing the file


def test_what_another_task_of_the_same_asked_is_known_and_stays_there(path, tmp_path, capsys):
    other = tmp_path / "other.jsonl"
    theirs = AnswerFile(other)
    theirs.add(C, {"response": "drei"})
    theirs.add(A, {"response": "old"})
    filled(path)
    before = other.read_bytes() + b"half a li"  # somebody is writing
    other.write_bytes(before)
    answers = AnswerFile(path, [other])
    assert answers == {A: FIRST, B: SECOND, C: {"response": "drei"}}  # its own go first
    answers.add(C, {"response": "neu"})
    assert other.read_bytes() == before
    assert AnswerFile(path)[C] == {"response": "neu"}
    assert AGAIN not in capsys.readouterr().out


CUT = {
    **{f"{lost} bytes lost": (lambda content, lost=lost: content[:-lost], {A}) for lost in (1, 2, 20)},
    "garbage longer than what is written next": (lambda content: content + b'{"\xff\x00' + 1000 * b"x", {A, B}),
    "one broken line": (lambda _: b'{"key": ', set()),
}


@pytest.mark.parametrize("name", CUT)
def test_a_broken_last_line_is_dropped_for_good_and_the_rest_kept(path, capsys, name):
    filled(path)
    cut, left = CUT[name]
    path.write_bytes(cut(path.read_bytes()))
    answers = AnswerFile(path)
    assert answers.keys() == left
    answers.add(C, {"response": "drei"})
    assert AnswerFile(path).keys() == {*left, C} and b"xxx" not in path.read_bytes()
    assert capsys.readouterr().out == ""


def test_nothing_written_is_ever_written_over(path):
    filled(path)
    before = path.read_bytes()
    AnswerFile(path)
    assert path.read_bytes() == before
    AnswerFile(path).add(A, {"response": "zwei"})
    assert path.read_bytes().startswith(before) and path.read_bytes().count(b"\n") == 3
    assert AnswerFile(path)[A] == {"response": "zwei"}  # the later of two lines counts


@pytest.mark.parametrize(
    ("given", "found"),
    [
        2 * ("a\nb\r\u2028 \u00e4\u4e2d \U0001f600 \ud800",),  # half of a surrogate pair alone
        2 * ([-0.1 - 0.2, 1e-300, float("-inf")],),
        ((np.float32(0.5), np.bool_(True), torch.tensor(3)), [0.5, True, 3]),
    ],
    ids=["text", "numbers", "numbers of libraries"],
)
def test_answers_come_back_exactly(path, given, found):
    AnswerFile(path).add(A, {"response": given})
    assert AnswerFile(path)[A]["response"] == found


def line(key=A, **record) -> bytes:
    """A line with the checksum that it ought to have."""
    return json.dumps({"key": key, **record, "checksum": key_of("task", key, record)}).encode()


ALTERED = {
    "response": lambda line: line.replace(b'"eins"', b'"zwei"'),
    "tokens": lambda line: line.replace(b'"tokens": 4', b'"tokens": 5'),
    "finish": lambda line: line.replace(b'"stop"', b'"loop"'),
    "another request": lambda line: line.replace(A.encode(), C.encode()),
    "one field less": lambda line: line.replace(b', "finish": "stop"', b""),
    "one field more": lambda line: line.replace(b"{", b'{"text": "", ', 1),
    "another type": lambda line: line.replace(b'"eins"', b"1"),
    "checksum": lambda line: line.replace(b'"checksum": "', b'"checksum": "0'),
    "a hole": lambda line: line[:20] + line[40:],
    "number": lambda _: b"5",
    "list": lambda _: b'["key", "response"]',
    "no key": lambda _: json.dumps({"response": "eins", "checksum": key_of("task", A, {"response": "eins"})}).encode(),
    "no response": lambda _: line(tokens=4),
    "no checksum, as files before had none": lambda _: json.dumps({"key": A, "response": "eins"}).encode(),
    "key that is a list": lambda _: line(key=[A], response="eins"),
    "no text": lambda _: b"\xff\xfe\x00",
    "too deep": lambda _: b"[" * 100_000,
    "too long a number": lambda _: b"1" * 10_000,
}


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED)
def test_a_line_that_is_no_record_of_this_file_is_not_believed(path, alter, capsys):
    filled(path)
    first, second = path.read_bytes().splitlines()
    assert alter(first) != first
    path.write_bytes(alter(first) + b"\n" + second + b"\n5\n")
    answers = AnswerFile(path)
    assert answers == {B: SECOND}
    assert capsys.readouterr().out == f"{path}: 2 of 3 lines broken, altered or foreign; {AGAIN}\n"
    answers.add(A, FIRST)
    assert AnswerFile(path) == {A: FIRST, B: SECOND}


def test_answers_of_another_model_or_task_are_not_believed(path, tmp_path, capsys):
    """Copied over this file, or appended to it; two names of one identity are of the same."""
    other, same = (tmp_path / name for name in (".task.other.jsonl", ".some.task.jsonl"))
    AnswerFile(other).add(A, {"response": "their"})
    AnswerFile(same).add(C, {"response": "drei"})
    filled(path)
    path.write_bytes(path.read_bytes() + other.read_bytes() + same.read_bytes())
    assert AnswerFile(path) == {A: FIRST, B: SECOND, C: {"response": "drei"}}
    assert f"{path}: 1 of 4 lines broken, altered or foreign; {AGAIN}\n" in capsys.readouterr().out
    path.write_bytes(other.read_bytes())
    assert AnswerFile(path) == {}


def test_keys_are_of_the_kind_and_arguments_alone():
    requests = [
        *(("generate_until", (text, {"until": [stop]})) for text, stop in (("a", "\n"), ("b", "\n"), ("a", "Q"))),
        *(("loglikelihood", own) for own in (("a", {"until": ["\n"]}), ("a", " b"), ("a ", "b"), ("a b", ""))),
    ]
    assert len({key_of(*request) for request in requests}) == len(requests)
    assert key_of("a", {"x": 1, "y": (2, 3)}) == key_of("a", {"y": [2, 3], "x": 1})
    assert key_of("a") == hashlib.sha256(b'["a"]').hexdigest()[:32] == "0eb5b8d6f81bc677da8a08567cc4fa9a"

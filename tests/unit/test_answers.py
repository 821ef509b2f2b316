"""The answer file: what is written stays, a killed writer costs one line at most, an altered line is not believed."""

import hashlib
import json

import numpy as np
import pytest
import torch

from pruning.core.artifacts import key_of
from pruning.evaluation.answers import AnswerFile

AGAIN = "what no sound line answers is asked again"
A, B, C = (AnswerFile.key("generate_until", [text, {"until": ["\n"]}]) for text in "abc")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results" / ".task.jsonl"


def filled(path) -> AnswerFile:
    answers = AnswerFile(path)
    answers.add(A, {"response": "eins", "tokens": 4, "finish": "stop"})
    answers.add(B, {"response": [-1.5, True]})
    return answers


def test_a_new_file_is_empty(path):
    answers = AnswerFile(path)
    assert A not in answers
    with pytest.raises(KeyError):
        answers[A]


def test_records_are_there_at_once_and_after_reopening(path):
    for answers in (filled(path), AnswerFile(path)):
        assert answers[A] == {"response": "eins", "tokens": 4, "finish": "stop"}
        assert answers[B] == {"response": [-1.5, True]}
        assert C not in answers


def test_what_another_task_of_the_same_asked_is_known_and_stays_there(path, tmp_path, capsys):
    other = tmp_path / "other.jsonl"
    theirs = AnswerFile(other)
    theirs.add(C, {"response": "drei"})
    theirs.add(A, {"response": "old"})
    filled(path)
    before = other.read_bytes() + b"half a li"  # somebody is writing
    other.write_bytes(before)
    answers = AnswerFile(path, [other])
    assert answers.records.keys() == {A, B, C}
    assert answers[A]["response"] == "eins"  # its own go first
    answers.add(C, {"response": "neu"})
    assert other.read_bytes() == before
    assert AnswerFile(path)[C] == {"response": "neu"}
    assert AGAIN not in capsys.readouterr().out


def test_a_record_is_on_disk_before_the_next_is_computed(path):
    answers = filled(path)
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == [A, B]
    assert answers.records.keys() == {A, B}


@pytest.mark.parametrize("lost", [1, 2, 20])
def test_a_broken_last_line_is_dropped_and_the_rest_kept(path, lost):
    filled(path)
    path.write_bytes(path.read_bytes()[:-lost])
    answers = AnswerFile(path)
    assert A in answers
    assert B not in answers
    answers.add(C, {"response": "drei"})
    again = AnswerFile(path)
    assert again.records.keys() == {A, C}
    assert again[C] == {"response": "drei"}


def test_garbage_after_the_last_line_break_is_dropped_for_good(path):
    filled(path)
    with path.open("ab") as file:
        file.write(b'{"key": "\xff\x00' + 1000 * b"x")  # longer than what is written next
    answers = AnswerFile(path)
    assert answers.records.keys() == {A, B}
    answers.add(C, {"response": "drei"})
    assert AnswerFile(path).records.keys() == {A, B, C}
    assert b"xxx" not in path.read_bytes()


def test_a_file_of_one_broken_line_is_empty(path):
    path.parent.mkdir()
    path.write_bytes(b'{"key": ')
    assert AnswerFile(path).records == {}
    filled(path)
    assert AnswerFile(path).records.keys() == {A, B}


def test_nothing_written_is_ever_written_over(path):
    filled(path)
    before = path.read_bytes()
    AnswerFile(path)
    assert path.read_bytes() == before
    AnswerFile(path).add(C, {"response": "drei"})
    after = path.read_bytes()
    assert after.startswith(before)
    assert len(after.splitlines()) == 3


def test_text_with_line_breaks_and_other_scripts_stays_whole(path):
    text = "a\nb\r\u2028 \u00e4\u4e2d \U0001f600 \ud800"  # the last half of a surrogate pair alone
    AnswerFile(path).add(A, {"response": text})
    assert AnswerFile(path)[A]["response"] == text


def test_numbers_come_back_exactly(path):
    AnswerFile(path).add(A, {"response": [-0.1 - 0.2, 1e-300, float("-inf")]})
    assert AnswerFile(path)[A]["response"] == [-0.1 - 0.2, 1e-300, float("-inf")]


def test_numbers_of_numpy_and_torch_become_plain_ones(path):
    AnswerFile(path).add(A, {"response": (np.float32(0.5), np.bool_(True), torch.tensor(3))})
    assert AnswerFile(path)[A]["response"] == [0.5, True, 3]


def line(key=A, checksum=None, **record) -> bytes:
    """A line with the checksum that it ought to have, or another."""
    return json.dumps({"key": key, **record, "checksum": checksum or key_of("task", key, record)}).encode()


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
}


@pytest.mark.parametrize("alter", ALTERED.values(), ids=ALTERED)
def test_an_altered_line_is_not_believed(path, alter, capsys):
    filled(path)
    first, second = path.read_bytes().splitlines()
    assert alter(first) != first
    path.write_bytes(alter(first) + b"\n" + second + b"\n")
    answers = AnswerFile(path)
    assert answers.records.keys() == {B}
    assert capsys.readouterr().out == f"{path}: 1 of 2 lines broken, altered or foreign; {AGAIN}\n"
    answers.add(A, {"response": "eins"})
    assert AnswerFile(path).records == {A: {"response": "eins"}, B: {"response": [-1.5, True]}}


FOREIGN = {
    "number": b"5",
    "text": b'"text"',
    "list": b'["key", "response"]',
    "null": b"null",
    "empty": b"",
    "no key": json.dumps({"response": "eins", "checksum": key_of("task", A, {"response": "eins"})}).encode(),
    "no response": line(tokens=4),
    "no checksum, as files before had none": json.dumps({"key": A, "response": "eins"}).encode(),
    "key of another type": line(key=5, response="eins"),
    "key that is a list": line(key=[A], response="eins"),
    "checksum of another type": line(checksum=5, response="eins"),
    "no text": b"\xff\xfe\x00",
    "too deep": b"[" * 100_000,
    "too long a number": b"1" * 10_000,
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
def test_a_line_that_is_no_record_is_not_believed(path, foreign, capsys):
    filled(path)
    path.write_bytes(foreign + b"\n" + path.read_bytes())
    answers = AnswerFile(path)
    assert answers.records.keys() == {A, B}
    assert answers[A] == {"response": "eins", "tokens": 4, "finish": "stop"}
    assert capsys.readouterr().out == f"{path}: 1 of 3 lines broken, altered or foreign; {AGAIN}\n"


def test_bad_lines_are_told_of_once_with_their_number(path, capsys):
    filled(path)
    path.write_bytes(b"5\n" * 7 + path.read_bytes())
    AnswerFile(path)
    assert capsys.readouterr().out == f"{path}: 7 of 9 lines broken, altered or foreign; {AGAIN}\n"


def test_nothing_is_told_of_a_sound_file_and_of_one_that_a_kill_cut_off(path, capsys):
    filled(path)
    AnswerFile(path)
    path.write_bytes(path.read_bytes()[:-5])
    assert AnswerFile(path).records.keys() == {A}
    assert capsys.readouterr().out == ""


def test_answers_of_another_model_or_task_are_not_believed(path, tmp_path, capsys):
    """Copied over this file, or appended to it; two names of one identity are of the same."""
    other, same = (tmp_path / name for name in (".task.other.jsonl", ".some.task.jsonl"))
    AnswerFile(other).add(A, {"response": "their"})
    AnswerFile(same).add(C, {"response": "drei"})
    filled(path)
    path.write_bytes(path.read_bytes() + other.read_bytes() + same.read_bytes())
    assert AnswerFile(path)[A]["response"] == "eins" and C in AnswerFile(path)
    assert f"{path}: 1 of 4 lines broken, altered or foreign; {AGAIN}\n" in capsys.readouterr().out
    path.write_bytes(other.read_bytes())
    assert AnswerFile(path).records == {}


def test_the_later_of_two_lines_counts(path):
    filled(path).add(A, {"response": "zwei"})
    assert AnswerFile(path)[A] == {"response": "zwei"}


def test_keys_tell_kinds_and_arguments_apart():
    requests = [
        ("generate_until", ("a", {"until": ["\n"]})),
        ("loglikelihood", ("a", {"until": ["\n"]})),
        ("generate_until", ("b", {"until": ["\n"]})),
        ("generate_until", ("a", {"until": ["Q"]})),
        ("loglikelihood", ("a", " b")),
        ("loglikelihood", ("a ", "b")),
        ("loglikelihood", ("a b", "")),
    ]
    assert len({AnswerFile.key(*request) for request in requests}) == len(requests)


def test_keys_do_not_depend_on_the_order_of_a_dict_or_on_tuples():
    assert key_of("a", {"x": 1, "y": (2, 3)}) == key_of("a", {"y": [2, 3], "x": 1})


def test_keys_are_the_same_in_every_process():
    assert key_of("a") == hashlib.sha256(b'["a"]').hexdigest()[:32] == "0eb5b8d6f81bc677da8a08567cc4fa9a"

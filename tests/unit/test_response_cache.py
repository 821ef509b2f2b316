"""The response cache: what is written stays, and a killed writer costs one line at most."""

import hashlib
import json

import pytest

from pruning.core.artifacts import key_of
from pruning.evaluation.answers import ResponseCache

A, B, C = (ResponseCache.key("generate_until", [text, {"until": ["\n"]}]) for text in "abc")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results" / ".task.jsonl"


def filled(path) -> ResponseCache:
    cache = ResponseCache(path)
    cache.add(A, {"response": "eins", "tokens": 4, "finish": "stop"})
    cache.add(B, {"response": [-1.5, True]})
    return cache


def test_a_new_cache_is_empty(path):
    cache = ResponseCache(path)
    assert A not in cache
    with pytest.raises(KeyError):
        cache[A]


def test_records_are_there_at_once_and_after_reopening(path):
    for cache in (filled(path), ResponseCache(path)):
        assert cache[A] == {"response": "eins", "tokens": 4, "finish": "stop"}
        assert cache[B] == {"response": [-1.5, True]}
        assert C not in cache


def test_a_record_is_on_disk_before_the_next_is_computed(path):
    cache = filled(path)
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == [A, B]
    assert cache.records.keys() == {A, B}


@pytest.mark.parametrize("lost", [1, 2, 20])
def test_a_broken_last_line_is_dropped_and_the_rest_kept(path, lost):
    filled(path)
    path.write_bytes(path.read_bytes()[:-lost])
    cache = ResponseCache(path)
    assert A in cache
    assert B not in cache
    cache.add(C, {"response": "drei"})
    again = ResponseCache(path)
    assert again.records.keys() == {A, C}
    assert again[C] == {"response": "drei"}


def test_garbage_after_the_last_line_break_is_dropped_for_good(path):
    filled(path)
    with path.open("ab") as file:
        file.write(b'{"key": "\xff\x00' + 1000 * b"x")  # longer than what is written next
    cache = ResponseCache(path)
    assert cache.records.keys() == {A, B}
    cache.add(C, {"response": "drei"})
    assert ResponseCache(path).records.keys() == {A, B, C}
    assert b"xxx" not in path.read_bytes()


def test_a_file_of_one_broken_line_is_an_empty_cache(path):
    path.parent.mkdir()
    path.write_bytes(b'{"key": ')
    assert ResponseCache(path).records == {}
    filled(path)
    assert ResponseCache(path).records.keys() == {A, B}


def test_nothing_written_is_ever_written_over(path):
    filled(path)
    before = path.read_bytes()
    ResponseCache(path)
    assert path.read_bytes() == before
    ResponseCache(path).add(C, {"response": "drei"})
    after = path.read_bytes()
    assert after.startswith(before)
    assert len(after.splitlines()) == 3


def test_text_with_line_breaks_and_other_scripts_stays_whole(path):
    text = "a\nb\r\u2028 \u00e4\u4e2d \U0001f600 \ud800"  # the last half of a surrogate pair alone
    ResponseCache(path).add(A, {"response": text})
    assert ResponseCache(path)[A]["response"] == text


def test_numbers_come_back_exactly(path):
    ResponseCache(path).add(A, {"response": [-0.1 - 0.2, 1e-300, float("-inf")]})
    assert ResponseCache(path)[A]["response"] == [-0.1 - 0.2, 1e-300, float("-inf")]


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
    assert len({ResponseCache.key(*request) for request in requests}) == len(requests)


def test_keys_do_not_depend_on_the_order_of_a_dict_or_on_tuples():
    assert key_of("a", {"x": 1, "y": (2, 3)}) == key_of("a", {"y": [2, 3], "x": 1})


def test_keys_are_the_same_in_every_process():
    assert key_of("a") == hashlib.sha256(b'["a"]').hexdigest()[:32] == "0eb5b8d6f81bc677da8a08567cc4fa9a"

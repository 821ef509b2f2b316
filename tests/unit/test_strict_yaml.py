"""YAML files that a loader would misread or not survive are refused in one line, which names file, line and key."""

import itertools
import os
import time
from pathlib import Path

import pytest

from pruning.core import strict_yaml
from pruning.core.errors import InputError
from workspace import ROOT

DIGITS = "9" * 5000
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in itertools.pairwise("abcdefghij")
)
REFUSED = {  # content -> what is said after the file's name
    "models:\n  a: {b: 1\n  c: 2\n": ":3:4: expected ',' or '}', but got ':' while parsing a flow mapping of line 2",
    "models:\n\ta: 1\n": ":2:1: found character '\\t' that cannot start any token; indent with spaces, not tabs",
    'a: 1\nb: "x\n': ":3:1: found unexpected end of stream while scanning a quoted scalar of line 2",
    "- a\n": ": no keys at its top level",
    "hello\n": ": no keys at its top level",
    "": ": no keys at its top level",
    "# nothing\n": ": no keys at its top level",
    "a: 1\n---\nb: 2\n": ":2: a second document begins; keep one",
    "a: 1\nb: 2\na: 3\n": ":3: a: this key stands twice, first in line 1; keep one",
    "a:\n  b: {c: 1, d: 2}\n  b: {}\n": ":3: a.b: this key stands twice, first in line 2; keep one",
    '{\n\t"a": 1,\n\t"a": 2\n}': ":3: a: this key stands twice, first in line 2; keep one",  # JSON
    "a:\n- {b: 1}\n- {b: 2, b: 3}\n": ":3: a.b: this key stands twice, first in line 3; keep one",
    "a: &a [*a]\n": ":1: a: the alias stands within what it stands for, without an end",
    "a: &a\n  b: *a\n": ":2: a.b: the alias stands within what it stands for, without an end",
    "a: &a\n  <<: *a\n": ":2: a.<<: the alias stands within what it stands for, without an end",
    LAUGHS: ":6: f: more than 100,000 entries, counted as often as aliases name them",
    "a: " + "[" * 5000 + "]" * 5000: ":1: lists and mappings nested more than 50 deep",
    "".join(f"{' ' * n}a:\n" for n in range(1500)): ":51: lists and mappings nested more than 50 deep",
    f"a: {DIGITS}\n": ":1: a: 999999999… has 5000 digits; no number here has more than 18",
    "a: 010\n": ":1: a: YAML reads 010 as 8; write that, or quote it",
    "a: [1, 1:30]\n": ":1: a: YAML reads 1:30 as 90; write that, or quote it",
    'a: "\\ud800"\n': ":1:7: found invalid Unicode character escape code while parsing a quoted scalar of line 1",
    "a: [*b]\n": ":1:5: found undefined alias",
    "a: 1\n[b]: 2\n": ":2: at the top: a key must be a word, not a list or a mapping",
    "a: !!python/name:os.system x\n": ":1: a: the tag 'tag:yaml.org,2002:python/name:os.system' is not read here",
    "a: \0": ": unacceptable character #x0000: special characters are not allowed",
    "a: café".encode("latin-1"): ": not UTF-8 (unexpected end of data at byte 6); save it as UTF-8",
    "a: 1".encode("utf-16"): ": not UTF-8 (invalid start byte at byte 0); save it as UTF-8",
}


@pytest.mark.parametrize("content", REFUSED, ids=lambda content: repr(content[:25]))
def test_what_would_be_misread_is_refused_in_one_line(content: str | bytes, tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    started = time.monotonic()
    with pytest.raises(InputError) as error:
        strict_yaml.check(path)
    assert str(error.value).startswith(f"{path}{REFUSED[content]}")
    assert len(str(error.value).splitlines()) == 1 and time.monotonic() - started < 5


def test_what_is_no_file_is_refused_without_reading_it(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match=f"{path}: not a regular file"):
            strict_yaml.check(path)
    with pytest.raises(InputError, match=r"none\.yaml: No such file"):
        strict_yaml.check(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa: 1\n",
        b"a: &a {b: 1}\nc: *a\nd:\n  <<: *a\n  <<: {e: 2}\n  b: 1_000\n",
        b"a: {b: 1}\nc: {b: 1}\nd: '010'\ne: !!str 010\n",
        b'{"a": [1, -2.5e3, null]}',
    ],
)
def test_what_is_read_as_it_is_meant_passes(content: bytes, tmp_path: Path):
    (tmp_path / "mine.yaml").write_bytes(content)
    strict_yaml.check(tmp_path / "mine.yaml")


def test_a_file_that_was_changed_is_read_again(tmp_path: Path):
    """As one that is edited between two calls of a program."""
    path = tmp_path / "mine.yaml"
    path.write_text("a: 1\n")
    strict_yaml.check(path)
    path.write_text("a: 1\na: 2\n")
    with pytest.raises(InputError, match="a: this key stands twice"):
        strict_yaml.check(path)


def test_every_shipped_file_passes():
    for path in (*ROOT.glob("config/*.yaml"), *ROOT.glob("config/tasks/*.yaml")):
        strict_yaml.check(path)


@pytest.mark.parametrize("option", [["--configfile", "{}"], ["--configfile={}"], ["--configfiles", "a", "{}"]])
def test_the_files_of_a_command_line_are_found(option: list[str], tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("fine.yaml", "a"):
        (tmp_path / name).write_text("a: 1\n")
    (tmp_path / "bad.yaml").write_text("a: 1\na: 2\n")
    given = [part.format("bad.yaml") for part in option]
    with pytest.raises(SystemExit, match=r"error: bad\.yaml:2: a: this key stands twice"):
        strict_yaml.check_given(["snakemake", "-n", *given, "--cores", "2"])
    strict_yaml.check_given(["snakemake", "bad.yaml", "--configfile", "fine.yaml", "--cores", "bad.yaml"])

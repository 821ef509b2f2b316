"""YAML files that people write, checked as text: what a loader would drop, misread or not survive."""

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NoReturn

import yaml

from pruning.core.errors import InputError

DEPTH = 50  # levels of lists and mappings; ours need nine
ENTRIES = 100_000  # of a file, with all that its aliases stand for
KINDS = ("str", "int", "float", "bool", "null", "timestamp", "merge", "map", "seq")
TAGS = {"!", "!function", *(f"tag:yaml.org,2002:{kind}" for kind in KINDS)}
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Refuse = Callable[[yaml.Node | yaml.Event, str], NoReturn]


def check_given(arguments: Sequence[str]) -> None:
    """Check the files that a command line of snakemake gives after --configfile; a mistake ends the program.

    For profiles/default: Snakemake reads these files before the workflow, and fails on some with a traceback."""
    taking = False
    for argument in arguments:
        alone = ""
        if argument.startswith("-"):
            option, alone, argument = argument.partition("=")
            taking = option in ("--configfile", "--configfiles")
        if taking and argument:
            try:
                check(Path(argument))
            except InputError as error:
                sys.exit(f"error: {error}")
        taking = taking and not alone  # one file after `=`, then targets


def check(path: Path) -> None:
    """Raises InputError, naming file, line and key, for a file that is not one mapping in UTF-8, that says a key twice,
    or that holds what no loader reads as it is meant: loops of aliases, octal numbers, characters of no text."""
    _check(path, path.stat().st_mtime_ns if path.exists() else None)


@cache
def _check(path: Path, changed: int | None) -> None:
    """The file as it was changed last: a start of Snakemake asks for it twice."""
    text = _text(path)
    if text.lstrip().startswith("{"):  # JSON may be indented with tabs, YAML may not
        text = text.replace("\t", " ")
    refuse = partial(_refuse, path)
    try:
        try:
            _check_nesting(yaml.parse(text, _FAST), refuse)
        except yaml.YAMLError:
            _check_nesting(yaml.parse(text, yaml.SafeLoader), refuse)  # whose messages say more
        root = yaml.compose(text, _FAST)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise InputError(f"{path}:{mark.line + 1}:{mark.column + 1}: {_problem(error)}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{path}: no keys at its top level")
    _check_entries(root, "", {}, refuse)


def _refuse(path: Path, place: yaml.Node | yaml.Event, said: str) -> NoReturn:
    raise InputError(f"{path}:{place.start_mark.line + 1}: {said}")


def _check_nesting(events: Iterable[yaml.Event], refuse: Refuse) -> None:
    """What no loader survives, deep nesting; and a second document, which it would drop."""
    depth = documents = 0
    for event in events:
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            refuse(event, "a second document begins; keep one")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            refuse(event, f"lists and mappings nested more than {DEPTH} deep")


def _check_entries(node: yaml.Node, name: str, sizes: dict[yaml.Node, int | None], refuse: Refuse) -> int:
    """Check a node and all that is in it; how many entries it stands for, aliases counted as often as they are named.

    name: its keys from the top, joined by dots; sizes: of lists and mappings that have been checked, None of those that
    this node is in."""
    if node.tag not in TAGS:
        refuse(node, f"{name}: the tag {node.tag!r} is not read here; leave it out")
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node, name, refuse)
    elif node not in sizes:
        size, lines, sizes[node] = 1, {}, None  # lines of the keys so far
        for key, value in node.value if isinstance(node, yaml.MappingNode) else [(None, each) for each in node.value]:
            inner = _key(key, name, lines, refuse) if key else name
            if sizes.get(value, 1) is None:
                refuse(key or node, f"{inner}: the alias stands within what it stands for, without an end")
            size += _check_entries(value, inner, sizes, refuse)
            if size > ENTRIES:
                refuse(node, f"{name}: more than {ENTRIES:,} entries, counted as often as aliases name them")
        sizes[node] = size
    return sizes.get(node, 1)


def _key(node: yaml.Node, within: str, lines: dict[str, int], refuse: Refuse) -> str:
    """The dotted name of a mapping's key."""
    if not isinstance(node, yaml.ScalarNode):
        refuse(node, f"{within or 'at the top'}: a key must be a word, not a list or a mapping")
    name = ".".join(filter(None, [within, node.value]))
    if node.value in lines and node.value != "<<":
        refuse(node, f"{name}: this key stands twice, first in line {lines[node.value]}; keep one")
    lines[node.value] = node.start_mark.line + 1
    _check_scalar(node, name, refuse)
    return name


def _check_scalar(node: yaml.ScalarNode, name: str, refuse: Refuse) -> None:
    if node.tag == "tag:yaml.org,2002:int":
        if len(node.value) > 18:
            refuse(node, f"{name}: {node.value[:9]}… has {len(node.value)} digits; no number here has more than 18")
        if not re.fullmatch(r"[-+]?(0|[1-9][0-9_]*)", node.value):
            refuse(node, f"{name}: YAML reads {node.value} as {yaml.safe_load(node.value)}; write that, or quote it")


def _text(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: not a regular file; give a YAML file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None


def _problem(error: yaml.MarkedYAMLError) -> str:
    hint = "; indent with spaces, not tabs" if "'\\t'" in str(error.problem) else ""
    begun = f" {error.context} of line {error.context_mark.line + 1}" if error.context_mark else ""
    return f"{error.problem}{begun}{hint}"

"""YAML files that people write, checked as text: what a loader would drop, misread or not survive."""

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from pruning.core.errors import InputError

DEPTH = 50
"""Levels of lists and mappings; ours need nine."""
ENTRIES = 100_000
"""Of a file, with all that its aliases stand for."""
TAGS = {None, "!", "!function", *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "map", "seq"))}
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER = yaml.SafeLoader("")


@dataclass
class _Open:
    """A list or mapping that has begun and not ended."""

    name: str
    """Its keys from the top, joined by dots."""
    event: yaml.NodeEvent
    keys: dict[str, int] = field(default_factory=dict)
    """Of a mapping: its keys so far and their lines."""
    key: str | None = None
    """The key whose value comes next."""
    entries: int = 1


def check_given(arguments: Sequence[str]) -> None:
    """Check the files that a command line of snakemake gives after --configfile; a mistake ends the program.

    For profiles/default: Snakemake reads these files before the workflow, and fails on some with a traceback."""
    taking = False
    for argument in arguments:
        if argument.startswith("-"):
            option, _, argument = argument.partition("=")
            taking = option in ("--configfile", "--configfiles")
        if taking and argument:
            try:
                check(Path(argument))
            except InputError as error:
                sys.exit(f"error: {error}")


@cache
def check(path: Path) -> None:
    """Raises InputError, naming file, line and key, for a file that is not one mapping in UTF-8, that says a key twice,
    or that holds what no loader reads as it is meant: loops of aliases, octal numbers, characters of no text."""
    text = _text(path)
    if text.lstrip().startswith("{"):  # JSON may be indented with tabs, YAML may not
        text = text.replace("\t", " ")
    try:
        try:
            _walk(path, yaml.parse(text, _FAST))
        except yaml.YAMLError:
            _walk(path, yaml.parse(text, yaml.SafeLoader))  # whose messages say more
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise InputError(f"{path}:{mark.line + 1}:{mark.column + 1}: {_problem(error)}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from None


def _walk(path: Path, events: Iterable[yaml.Event]) -> None:
    stack: list[_Open] = []
    sizes: dict[str, int] = {}  # entries that an anchor stands for
    documents = 0

    def refuse(event: yaml.Event, said: str) -> None:
        raise InputError(f"{path}:{event.start_mark.line + 1}: {said}")

    for event in events:
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            refuse(event, "a second document begins; keep one")
        entries, anchor = 1, getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionEndEvent):
            ended = stack.pop()
            entries, anchor = ended.entries, ended.event.anchor
        elif not isinstance(event, yaml.NodeEvent):
            continue
        elif not stack and not isinstance(event, yaml.MappingStartEvent):
            break
        else:
            within = stack[-1] if stack else None
            if within and isinstance(within.event, yaml.MappingStartEvent) and within.key is None:
                within.key = _key(event, within, refuse)
                continue
            name = ".".join(filter(None, [within.name, within.key])) if within else ""
            if getattr(event, "tag", None) not in TAGS:
                refuse(event, f"{name}: the tag {event.tag!r} is not read here; leave it out")
            if isinstance(event, yaml.AliasEvent):
                if any(each.event.anchor == anchor for each in stack):
                    refuse(event, f"{name}: the alias *{anchor} stands within what it stands for, without an end")
                entries = sizes.get(anchor, 1)
            elif isinstance(event, yaml.ScalarEvent):
                _check_scalar(event, name, refuse)
            else:
                stack.append(_Open(name, event))
                if len(stack) > DEPTH:
                    refuse(event, f"lists and mappings nested more than {DEPTH} deep")
                continue
        if anchor:
            sizes[anchor] = entries
        if stack:
            stack[-1].entries += entries
            stack[-1].key = None
            if stack[-1].entries > ENTRIES:
                refuse(event, f"{stack[-1].name}: more than {ENTRIES:,} entries, counted as often as aliases name them")
    if not documents or not isinstance(event, yaml.StreamEndEvent):
        raise InputError(f"{path}: no keys at its top level")


def _key(event: yaml.NodeEvent, within: _Open, refuse) -> str:
    if not isinstance(event, yaml.ScalarEvent):
        refuse(event, f"{within.name or 'at the top'}: a key must be a word, not a list, a mapping or an alias")
    name = ".".join(filter(None, [within.name, event.value]))
    if event.value in within.keys and event.value != "<<":
        refuse(event, f"{name}: this key stands twice, first in line {within.keys[event.value]}; keep one")
    within.keys[event.value] = event.start_mark.line + 1
    _check_scalar(event, name, refuse)
    return event.value


def _check_scalar(event: yaml.ScalarEvent, name: str, refuse) -> None:
    if re.search("[\ud800-\udfff]", event.value):
        refuse(event, f"{name}: half of a character (\\ud800 to \\udfff); write the character itself")
    tag = event.tag or _RESOLVER.resolve(yaml.ScalarNode, event.value, event.implicit)
    if tag == "tag:yaml.org,2002:int":
        if len(event.value) > 18:
            refuse(event, f"{name}: {event.value[:9]}… has {len(event.value)} digits; no number here has more than 18")
        if not re.fullmatch(r"[-+]?(0|[1-9][0-9_]*)", event.value):
            refuse(event, f"{name}: YAML reads {event.value} as {yaml.safe_load(event.value)}; write that, or quote it")


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

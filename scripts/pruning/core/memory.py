"""What a model's weights take in memory, and how much there is: known before anything is loaded."""

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open

from pruning.core.errors import InputError
from pruning.core.files import weight_files

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def gigabytes(parameters: int, dtype: str) -> float:
    """Of the weights alone."""
    return parameters * BYTES[dtype] / 1e9


def parameters(directory: Path) -> int:
    """Of a model directory, from the headers of its safetensors; tied weights count once.

    Raises InputError if one is broken."""
    total = 0
    for file in weight_files(directory):
        try:
            with safe_open(file, "numpy") as tensors:
                total += sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file}: not a whole safetensors file ({error}); delete it and fetch it again") from None
    return total


def gguf_parameters(file: Path) -> int | None:
    """Of a GGUF file, from its header, which its first part holds; None where it cannot be read."""
    with file.open("rb") as stream:
        try:
            if stream.read(4) != b"GGUF":
                return None
            _, tensors, entries = _numbers(stream, "IQQ")
            for _ in range(entries):
                _skip_string(stream)
                _skip_value(stream, *_numbers(stream, "I"))
            return sum(prod(shape) for shape in _shapes(stream, tensors))
        except Exception:  # it ends here, is of a later format, or its numbers are none: transformers will say
            return None


# GGUF's types of metadata and their bytes; 8 is a string, 9 a list.
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def _numbers(stream: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(f"<{layout}", stream.read(struct.calcsize(f"<{layout}")))


def _skip_string(stream: BinaryIO) -> None:
    stream.seek(*_numbers(stream, "Q"), os.SEEK_CUR)


def _skip_value(stream: BinaryIO, kind: int) -> None:
    if kind == 8:
        _skip_string(stream)
    elif kind == 9:
        kind, length = _numbers(stream, "IQ")
        if kind in WIDTHS:
            stream.seek(WIDTHS[kind] * length, os.SEEK_CUR)
        else:
            for _ in range(length):
                _skip_value(stream, kind)
    else:
        stream.seek(WIDTHS[kind], os.SEEK_CUR)


def _shapes(stream: BinaryIO, tensors: int) -> Iterator[tuple[int, ...]]:
    for _ in range(tensors):
        _skip_string(stream)
        (axes,) = _numbers(stream, "I")
        yield _numbers(stream, f"{axes}Q")
        stream.seek(4 + 8, os.SEEK_CUR)  # its quantisation and place


def give_back() -> None:
    """Return to the system what its allocator holds without need (glibc's; elsewhere nothing happens).

    Of tensors below 32 MB those that stay lie between those that went, and other sizes do not fit their gaps: without
    it the refits of Qwen2.5-Coder-1.5B on 150,000 tokens held twice what they used."""
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def physical(root: Path = Path("/")) -> int:
    """Bytes of memory that jobs here can ever have: the machine's, or less where a control group limits them."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *(limit for limit, _ in _limits(root))])


def available(root: Path = Path("/")) -> int | None:
    """Bytes of memory that are free now, or can be freed; None where Linux's /proc is not there to tell."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min([*free, *(max(limit - used, 0) for limit, used in _limits(root))], default=None)


# Control groups, versions 2 and 1: their line in /proc/self/cgroup, folder, and files.
GROUPS = (
    ("", "sys/fs/cgroup", "memory.max", "memory.current"),
    ("memory", "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)


def _limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) of this process's control group and those around it; caches of files do not count as used."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    own = {controller: path for _, controller, path in (line.split(":", 2) for line in lines)}
    for controller, folder, *files in GROUPS:
        group = root / folder / own.get(controller, "/").lstrip("/")
        for place in (group, *group.parents):
            if not place.is_relative_to(root / folder):
                break
            try:
                limit, used = ((place / file).read_text().strip() for file in files)
                stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            except OSError:  # the outermost group of version 2 has no limit; inside a container ours is the outermost
                continue
            if limit != "max":
                total = "total_" if controller else ""  # version 1 counts what lies in groups below apart
                cached = sum(int(stat.get(f"{total}{state}_file", 0)) for state in ("active", "inactive"))
                yield int(limit), int(used) - cached

"""
What the rules share: the validated configuration, the code that a stage depends on, settings, resources.

    CONFIG              the validated configuration (scripts/pruning/config/)
    METHOD              a regular expression of the names of all methods, recombinations included
    code("score", …)    a stage's script and the library modules it imports, transitively
    settings(…)         a job's settings as one labelled JSON string, tracked by Snakemake
    one_of(names)       a wildcard constraint
"""

import json
import os
import re
import sys
from functools import cache, partial
from itertools import product
from pathlib import Path

from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.utils import update_config

sys.path.insert(0, os.path.join(HOME, "scripts"))

from pruning.config import preflight
from pruning.config.analyses import Spectrum, Trap
from pruning.config.validation import validate
from pruning.core import artifacts, devices, hub, locks, memory, names, slurm
from pruning.core.errors import one_line
from pruning.core.workflow import imported
from pruning.core.names import Variant, benchmark_of, log_of
from pruning.models import sources
from pruning.paper import catalogue as paper
from pruning.report import catalogue


def checked(function, *arguments):
    """Call; bad input ends the run before any job starts, with one line per mistake and no traceback."""
    with one_line():
        return function(*arguments)


SCRIPTS = names.own("scripts")
# A module's configuration holds only what differs, as an additional configfile does: the default is below either.
whole = load_configfile(os.path.join(HOME, "config/config.yaml"))
update_config(whole, config)
CONFIG = checked(validate, whole, workflow.configfiles)
METHOD = CONFIG.method_pattern
cut_as = cache(CONFIG.cut_as)
EXPERIMENT = CONFIG.experiment
PLACES = CONFIG.places
CALIB = catalogue.calib(CONFIG)
TABLES = {**catalogue.tables(CONFIG), **paper.tables(CONFIG)}
FIGURES = {**catalogue.figures(CONFIG), **paper.figures(CONFIG)}


def of_methods(path):
    """A path for every method of the experiment, other wildcards left in."""
    return [path.replace("{method}", method) for method in EXPERIMENT.methods]


def as_cut(wildcards):
    """The same, of the method whose scores, masks and refits the wildcards' method shares."""
    return {**wildcards, "method": cut_as(wildcards["method"])}


def shared(path):
    """An input that methods share which cut alike."""
    return lambda w: path.format(**as_cut(w))


def one_of(names):
    return "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or "(?!)"


@cache
def imports(path):
    """Library files that a Python file imports, wherever in the file it does. The package's own file imports api.py, but
    only where a program asks it for a name: no stage does (tests/unit/test_rooms.py)."""
    if path == f"{SCRIPTS}/pruning/__init__.py":
        return set()
    return {file for name in imported(Path(path).read_text(encoding="utf-8")) for file in modules_of(name)}


LIBRARY = {str(file) for file in Path(SCRIPTS, "pruning").rglob("*.py")}


def modules_of(name):
    """Files of the library that importing a module of it, or a name in one, loads."""
    stem = SCRIPTS
    for part in name.split("."):
        stem = f"{stem}/{part}"
        yield from LIBRARY & {f"{stem}.py", f"{stem}/__init__.py"}


@cache
def code(stage, *plugins):
    """scripts/{stage}.py, the plug-ins it is told to load, and all they import: what a stage's result depends on."""
    first = f"{SCRIPTS}/{stage}.py"  # what a shell command calls
    pending, files = [first], set()
    for plugin in plugins:
        pending += modules_of(".".join(["pruning", *Path(plugin).parts]))
    while pending:
        file = pending.pop()
        if file not in files:
            files.add(file)
            pending += imports(file)
    return [first, *sorted(files - {first})]


def settings(section, *, exclude=(), **extra):
    """One labelled dict a job, as JSON (Snakemake compares params without their names); order is kept, for tables."""
    own = section.model_dump(exclude=set(exclude)) if section else {}
    return json.dumps({**own, **extra})


wildcard_constraints:
    model=one_of(CONFIG.models),
    dataset=one_of(CONFIG.datasets),
    calib=one_of(CONFIG.calibrations),
    method=METHOD,
    task=one_of(CONFIG.tasks),
    split=r"[a-z0-9_-]+",
    sparsity=r"\d{1,2}",
    shard=r"\d+",
    shards=r"\d+",

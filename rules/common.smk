"""
Everything the rules share: the validated configuration, the code a stage depends on, resources.

The only .smk file with Python of its own. It provides

    CONFIG              the validated configuration (scripts/pruning/config.py)
    METHODS             names of all methods, shuffled ones included
    code("score", …)    a stage's script and the library modules it imports, transitively
    settings(…)         a job's settings as one labelled JSON string, tracked by Snakemake
    one_of(names)       a wildcard constraint
"""

import ast
import json
import os
import re
import sys
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from pruning import devices, preflight
from pruning.config import validate
from pruning.errors import InputError

LAUNCH = "python scripts/launch.py --gpus {resources.gpu} -- "


def checked(function, *arguments):
    """Call; bad input ends the run before any job starts, with one line a mistake and no traceback."""
    try:
        return function(*arguments)
    except InputError as error:
        sys.exit(f"error: {error}")


CONFIG = checked(validate, config)
METHODS = [*CONFIG.methods, *(f"shuffle_{name}" for name in CONFIG.methods)]


def one_of(names):
    return "|".join(sorted(map(re.escape, names), key=len, reverse=True))


@cache
def imports(path):
    """Library files that a Python file imports, wherever in the file it does."""
    library, found = Path("scripts/pruning"), set()
    for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "pruning":
                for depth in range(1, len(parts) + 1):
                    stem = library.joinpath(*parts[1:depth])
                    found |= {str(f) for f in (stem.with_suffix(".py"), stem / "__init__.py") if f.is_file()}
    return found


def code(stage, *plugins):
    """scripts/{stage}.py, the plug-ins it is told to load, and all they import: what a stage's result depends on."""
    pending = [f"scripts/{stage}.py", *(f"scripts/pruning/{plugin}.py" for plugin in plugins)]
    files = set()
    while pending:
        file = pending.pop()
        if file not in files:
            files.add(file)
            pending += imports(file)
    return sorted(files)


def settings(section, *, exclude=(), **extra):
    """One labelled dict a job, as canonical JSON (Snakemake compares params without their names)."""
    own = section.model_dump(exclude=set(exclude)) if section else {}
    return json.dumps({**own, **extra}, sort_keys=True)


def memory_mb(wildcards):
    return CONFIG.models[wildcards.model].memory_gb * 1000


def gpus(wildcards):
    return CONFIG.models[wildcards.model].gpus


def threads_of(wildcards):
    return CONFIG.models[wildcards.model].threads


if workflow.is_main_process:
    checked(preflight.check, CONFIG)


onstart:
    # Snakemake starts as many local jobs as there are cores; memory and GPUs must suffice as well. Known only now:
    # whether jobs run here at all, and that this is no dry-run.
    if workflow.local_exec:
        visible = devices.visible()
        checked(preflight.check_gpus, CONFIG, visible)
        machine_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 10**6
        for name, limit in (("mem_mb", machine_mb), ("gpu", len(visible))):
            if name not in workflow.global_resources:
                workflow.register_resource(name, limit)

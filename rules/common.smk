"""
What the rules share: the validated configuration, the code that a stage depends on, settings, resources.

    CONFIG              the validated configuration (scripts/pruning/config/)
    METHODS             names of all methods, recombinations included
    code("score", …)    a stage's script and the library modules it imports, transitively
    settings(…)         a job's settings as one labelled JSON string, tracked by Snakemake
    one_of(names)       a wildcard constraint
    filled(template)    a function of wildcards that fills a path's names in
"""

import ast
import json
import re
import sys
from functools import cache
from itertools import product
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from pruning.config import preflight
from pruning.config.analyses import Spectrum, Trap
from pruning.config.validation import validate
from pruning.core import devices, locks, memory, names
from pruning.core.errors import InputError
from pruning.core.names import Variant, benchmark_of, log_of
from pruning.models import sources
from pruning.report import catalogue


def checked(function, *arguments):
    """Call; bad input ends the run before any job starts, with one line a mistake and no traceback."""
    try:
        return function(*arguments)
    except InputError as error:
        sys.exit(f"error: {error}")


CONFIG = checked(validate, config)
METHODS = CONFIG.method_names
EXPERIMENT = CONFIG.experiment


def one_of(names):
    return "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or "(?!)"


def filled(template):
    return lambda wildcards: template.format(**wildcards)


@cache
def imports(path):
    """Library files that a Python file imports, wherever in the file it does."""
    library, found = Path("scripts/pruning"), set()
    for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in modules:
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
    """One labelled dict a job, as JSON (Snakemake compares params without their names); order is kept, for tables."""
    own = section.model_dump(exclude=set(exclude)) if section else {}
    return json.dumps({**own, **extra})


def kept_or_temp(output, storage):
    return temp(output) if storage == "temp" else output


def memory_mb(wildcards):
    return CONFIG.models[wildcards.model].memory_gb * 1000


def gpus(wildcards):
    return CONFIG.models[wildcards.model].gpus


def threads_of(wildcards):
    return CONFIG.models[wildcards.model].threads


if workflow.is_main_process:
    LIVE = locks.clear_stale(Path(".snakemake"))
    checked(preflight.check, CONFIG)


onstart:
    # Snakemake starts as many local jobs as there are cores; memory and GPUs must suffice as well. Known only now:
    # whether jobs run here at all, and that this is no dry-run.
    if workflow.local_exec:
        visible = devices.visible()
        checked(preflight.check_machine, CONFIG, visible)
        if not workflow.deployment_settings.deployment_method:  # jobs see the packages that are seen here
            checked(preflight.check_packages, CONFIG)
        for name, limit in (("mem_mb", memory.physical() // 10**6), ("gpu", len(visible))):
            if name not in workflow.global_resources:
                workflow.register_resource(name, limit)
        # Submissions to a queue are limited to 100 a second; jobs here by the cores. The limiter sets a timer at every
        # job's end that sets another a second later (Snakemake 9.27): after 200 jobs they took 44% of a core.
        workflow.scheduler.job_rate_limiter = None

"""The library's rooms, and what must be known in one place alone."""

import ast
import re
from pathlib import Path

from workspace import ROOT

LIBRARY = ROOT / "scripts/pruning"
ORDER = ["core", "data", "models", "calibration", "methods", "evaluation", "analysis", "config", "report"]


def imported(file: Path) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    return {node.module.split(".")[1] for node in nodes if node.module and node.module.startswith("pruning.")}


def test_rooms_know_only_those_before_them():
    assert sorted(path.name for path in LIBRARY.iterdir() if path.is_dir() and path.name != "__pycache__") == sorted(
        ORDER
    )
    for number, room in enumerate(ORDER):
        for file in (LIBRARY / room).rglob("*.py"):
            later = imported(file) - set(ORDER[: number + 1])
            assert not later, f"{file.relative_to(ROOT)} imports {later}"


def test_paths_of_results_are_written_in_one_place():
    """Elsewhere only in docstrings, comments and shell-free texts for people."""
    for file in [*LIBRARY.rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        if file == LIBRARY / "core/names.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.fullmatch(r"(results|resources)/\{[^ ]*", node.value), f"{file}: {node.value}"


def test_shared_rules_stay_small():
    assert len((ROOT / "rules/common.smk").read_text().splitlines()) <= 130
    assert len((ROOT / "Snakefile").read_text().splitlines()) < 60


def test_slurm_knows_every_rule_that_takes_gpus():
    import yaml

    asked = set()
    for file in (ROOT / "rules").glob("*.smk"):
        for name, body in re.findall(r"^ *rule (\w+):(.*?)(?=^ *rule |\Z)", file.read_text(), re.M | re.S):
            asked |= {name} if re.search(r"^ *gpu=", body, re.M) else set()
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    assert set(profile["set-resources"]) == asked

"""The library's rooms, and what must be known in one place alone."""

import ast
import re
from pathlib import Path

from workspace import ROOT

LIBRARY = ROOT / "scripts/pruning"
ORDER = ["core", "data", "models", "calibration", "methods", "evaluation", "analysis", "config", "report", "command"]


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
    assert len((ROOT / "Snakefile").read_text().splitlines()) < 62


def rules() -> dict[str, str]:
    """Rule -> its text."""
    texts = [file.read_text() for file in (ROOT / "rules").glob("*.smk")]
    return dict(
        found for text in texts for found in re.findall(r"^ *rule (\w+):(.*?)(?=^ *rule |\Z)", text, re.M | re.S)
    )


def test_the_slurm_profile_names_rules_that_there_are_and_no_partition():
    """A job's partition follows from the GPUs that it asks for (profiles/slurm/partitions.yaml), not from its rule."""
    import yaml

    text = (ROOT / "profiles/slurm/config.yaml").read_text()
    profile = yaml.safe_load(text)
    assert {*profile["set-resources"], *profile["groups"]} <= set(rules())
    assert "slurm_partition" not in text


def test_every_stages_memory_grows_with_its_attempts():
    asked = {name: re.findall(r"^ *mem_mb=(.*),$", body, re.M) for name, body in rules().items()}
    without = {"paper"}  # no job of its own
    assert {name for name, found in asked.items() if not found} == without
    assert {re.sub(r"\(.*", "", found) for values in asked.values() for found in values} == {"memory_mb", "grown"}

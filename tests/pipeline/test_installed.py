"""A wheel, installed without its checkout: the command, the workflow that it runs, and the library."""

import json
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import tiny
from workspace import ROOT, WORKFLOW

NEEDED = [*WORKFLOW, "resources", "pyproject.toml", "README.md", "LICENSE"]
CACHES = shutil.ignore_patterns("__pycache__", "*.egg-info")


def output_of(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A virtual environment with the wheel, that sees this one's packages but not this checkout."""
    folder = tmp_path_factory.mktemp("installed")
    for name in NEEDED:
        source, target = ROOT / name, folder / "source" / name
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(source, target, ignore=CACHES) if source.is_dir() else shutil.copy(source, target)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    output_of(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "./source", folder=folder)
    output_of(sys.executable, "-m", "venv", "--without-pip", "env", folder=folder)
    [wheel] = folder.glob("*.whl")
    output_of(*pip, "--python", "env/bin/python", "install", "--no-deps", "--no-index", str(wheel), folder=folder)
    shutil.rmtree(folder / "source")
    (packages(folder / "env") / "shared.pth").write_text(sysconfig.get_path("purelib"))  # not the .pth files therein
    return folder / "env"


def packages(environment: Path) -> Path:
    [found] = environment.glob("lib/python3.*/site-packages")
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_it_holds_the_workflow_and_asks_for_what_the_environment_has(environment: Path):
    home = packages(environment) / "pruning/_workflow"
    tracked = output_of("git", "ls-files", *WORKFLOW, "resources", folder=ROOT).splitlines()
    assert tracked and [name for name in tracked if not (home / name).is_file()] == []
    [info] = packages(environment).glob("reasoning_aware_pruning-*.dist-info")
    lines = (ROOT / "envs/requirements.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert [Requirement(line) for line in PathDistribution(info).requires] == wanted


def test_prune_works_from_any_folder_and_writes_nothing_where_it_is_installed(environment: Path, tmp_path: Path):
    tiny.save(tiny.qwen2(), tmp_path / "Model")
    records = [{"question": f"What is {n} + 1?", "answer": f"{n + 1}, as anyone sees"} for n in range(300)]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "snakemake.py").write_text("raise SystemExit('a module of the user')")
    before = files(packages(environment) / "pruning")
    command, given = str(environment / "bin/prune"), ["Model", "--data", "mine.jsonl", "--cores", "2"]
    assert "LoRA" in output_of(command, "--help", folder=tmp_path)
    assert "jobs, about" in output_of(command, "plan", *given, "--methods", "wanda", folder=tmp_path)
    assert (tmp_path / "pruned/results/model/base/manifest.json").is_file()  # a job has run

    (tmp_path / "prune.yaml").write_text((tmp_path / "pruned/.prune-start.yaml").read_text())
    home = packages(environment) / "pruning/_workflow"
    snakemake = [str(environment / "bin/python"), "-P", "-m", "snakemake", "-n", "results/table1.csv"]
    where = ["--snakefile", str(home / "Snakefile"), "--directory", "pruned", "--configfile", "prune.yaml"]
    planned = output_of(*snakemake, *where, folder=tmp_path)
    assert "_workflow/scripts/pruning/methods/scores/wanda.py" in planned and str(ROOT / "scripts") not in planned
    assert files(packages(environment) / "pruning") == before


def test_the_library_is_imported_from_the_workflow_that_is_installed(environment: Path, tmp_path: Path):
    code = "import pruning.models.loading as m, pruning.core.names as n; print(m.__file__, n.HOME); "
    code += "from pruning import prune; print(prune.__module__, __import__('sys').modules['pruning.api'].__file__)"
    module, home, name, api = output_of(str(environment / "bin/python"), "-c", code, folder=tmp_path).split()
    assert home == str(packages(environment) / "pruning/_workflow")
    assert module == f"{home}/scripts/pruning/models/loading.py"
    assert (name, api) == ("pruning.api", f"{home}/scripts/pruning/api.py")

"""The workflow run from another folder, as a module of another workflow, and with rules of the user's own."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

import tiny
from workspace import ROOT, Workspace, python, run

MASK = "results/tiny-reasoner/masks/gsm_symbolic-s0/rku/50.parquet"
MODULE = f"""
configfile: "mine.yaml"


module pruning:
    snakefile: "{ROOT}/Snakefile"
    config: config


use rule * from pruning as pruning_*


rule mine:
    default_target: True
    input: "{MASK}"
    output: "mine.txt"
    shell: "wc -c {{input}} > {{output}}"
"""
OWN = """
rule mine:
    input: names.MASK.format(model="tiny-reasoner", calib="gsm_symbolic-s0", method="rku", sparsity=50)
    output: "mine.txt"
    shell: "wc -c {input} > {output}"
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with a model and a configuration, and nothing of the workflow."""
    tiny.save(tiny.qwen2(), tmp_path / "resources/model")
    (tmp_path / "mine.yaml").write_text((ROOT / "tests/pipeline/config.yaml").read_text())
    return tmp_path


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return run(folder, python(), "-m", "snakemake", "--cores", "2", *arguments)


def lies_there(folder: Path, done: subprocess.CompletedProcess) -> None:
    assert done.returncode == 0, done.stderr[-3000:]
    assert pd.read_parquet(folder / MASK)["keep"].mean() == 0.5
    assert sorted(os.listdir(folder / "results")) == ["benchmarks", "data", "logs", "tiny-reasoner"]


def test_in_another_folder(elsewhere: Path, tmp_path_factory):
    away = tmp_path_factory.mktemp("away")
    arguments = [MASK, "--snakefile", str(ROOT / "Snakefile"), "--directory", str(elsewhere)]
    lies_there(elsewhere, snakemake(away, *arguments, "--configfile", str(elsewhere / "mine.yaml")))
    assert not list(away.iterdir())


def test_as_a_module_of_another_workflow(elsewhere: Path):
    (elsewhere / "Snakefile").write_text(MODULE)
    lies_there(elsewhere, snakemake(elsewhere))
    assert MASK in (elsewhere / "mine.txt").read_text()


def test_the_model_that_the_workflow_brings_along_is_found_from_anywhere(elsewhere: Path):
    target = "results/tiny-reasoner/base/manifest.json"
    done = snakemake(elsewhere, target, "--snakefile", str(ROOT / "Snakefile"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert (elsewhere / "results/tiny-reasoner/base/model.safetensors").stat().st_size > 1_000_000


def test_rules_of_the_users_own(elsewhere: Path):
    (elsewhere / "mine.smk").write_text(OWN)
    content = yaml.safe_load((elsewhere / "mine.yaml").read_text()) | {"custom_rules": ["mine.smk"]}
    (elsewhere / "mine.yaml").write_text(yaml.safe_dump(content))
    arguments = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "mine.yaml"]
    lies_there(elsewhere, snakemake(elsewhere, "mine.txt", *arguments))
    (elsewhere / "mine.smk").unlink()
    done = snakemake(elsewhere, "-n", "mine.txt", *arguments)
    assert "error: custom_rules: no file mine.smk; paths are relative" in done.stderr


@pytest.mark.parametrize("name", ["a b", "x[1]", "x*#", "it's 100%s"])
def test_folders_may_have_odd_names(tmp_path, name):
    tiny.save(tiny.qwen2(), tmp_path / name / "resources/model")
    assert Workspace(tmp_path / name).planned(MASK)["mask"] == 1


def test_braces_in_a_folders_name_are_refused(tmp_path):
    (tmp_path / "x{y}").mkdir()
    workspace = Workspace(tmp_path / "x{y}")
    done = workspace.snakemake("-n", MASK, check=False)
    assert done.returncode and "Traceback" not in done.stderr
    assert f"error: {workspace.path}: Snakemake takes braces in a path for wildcards; move it elsewhere" in done.stderr


def test_an_environment_that_is_not_activated_is_said_so(tmp_path):
    tiny.save(tiny.qwen2(), tmp_path / "resources/model")
    workspace = Workspace(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys._base_executable)
    done = workspace.snakemake(MASK, check=False, before=[f"{tmp_path}/bin"])
    assert done.returncode != 0 and f"activate the environment first, `. {sys.prefix}/bin/activate`" in done.stderr
    assert not (tmp_path / "results/data").exists()

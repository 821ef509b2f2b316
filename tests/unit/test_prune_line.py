"""The command line of `prune`: its options, its estimate, its questions, and the commands that it ends in."""

import inspect
import io
import json
import shlex
import sys
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import tiny
from pruning.command import config_file, line, take, wizard
from pruning.command.configuration import text
from pruning.command.estimate import Stage
from pruning.command.request import Request
from pruning.config.default import DEFAULT
from pruning.core import templates
from pruning.core.errors import InputError


def asked(**given) -> Request:
    return Request("m", Path("mine.jsonl"), **given)


def stage(seconds: float, **own) -> Stage:
    usual = {"name": "s", "jobs": 3, "loads": 3, "memory": 2.0, "written": 0.5, "counted": None, "measured": None}
    return Stage(**usual | own, expected=seconds)


def test_the_commands_take_the_same_options():
    wanted = list(inspect.signature(Request).parameters)
    for command in (line.with_options(line.run), line.COMMANDS["plan"]):
        assert list(inspect.signature(command).parameters) == wanted and command.__doc__


def parsed(*words: str) -> Request:
    found, app = [], typer.Typer()
    app.command()(line.with_options(found.append))
    assert CliRunner().invoke(app, words).exit_code == 0
    return found[0]


def test_options_become_a_request_and_those_not_given_are_as_a_programs(tmp_path):
    usual = vars(Request("m"))
    assert {key: own or None for key, own in vars(parsed("m")).items()} == {key: usual[key] or None for key in usual}
    (tmp_path / "mine.jsonl").touch()
    words = f"m --data {tmp_path}/mine.jsonl --sparsity 40,20 --gguf Q8_0 --gguf f16 --gguf q8_0 --tolerance 5 "
    words += "--methods wanda,rku --task gsm8k --task piqa"
    found = parsed(*words.split())
    assert found.sparsities == [20, 40] and found.gguf == ["q8_0", "f16"] and found.tolerance == 0.05
    assert (found.methods, found.tasks, found.budget) == (["wanda", "rku"], ["gsm8k", "piqa"], [])
    assert asked().sparsities == [20, 30] and asked(budget=["bytes=1GB"]).sparsities == []
    assert asked(vocabulary="30%").sparsities == [0, 20, 30]


def test_an_estimate_is_a_sentence(monkeypatch):
    monkeypatch.setattr(line.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(line.os, "getloadavg", lambda: (2.9, 9, 9))
    said = line.in_total([stage(60), stage(120.0, memory=None, written=0)], asked(cores=4))
    assert said.startswith("6 jobs, about 3 minutes with 4 cores, up to 2.4 GB of memory (")
    assert said.endswith("are there), 0.5 GB written to disk.")
    assert "3 jobs, about 1 minute with 1 core, up" in line.in_total([stage(3)], asked(cores=1))
    assert "about 2.5 hours" in line.in_total([stage(9000)], asked())
    assert line.in_total([], asked()) == "Nothing is left to do: all of it is there."

    monkeypatch.setattr(line.os, "getloadavg", lambda: (3.1, 0, 0))
    busy = " In the last minute 3.1 of 4 cores were busy. Beside other work the time is estimated too long."
    assert line.in_total([stage(60)], asked()).endswith("disk." + busy)


@pytest.mark.parametrize(
    ("seconds", "terminal", "yes", "answer", "asks"),
    [(3599, 1, 0, 0, 0), (3601, 0, 0, 0, 0), (3601, 1, 1, 0, 0), (3601, 1, 0, 1, 1), (3601, 1, 0, 0, 1)],
)
def test_a_long_run_is_asked_about_on_a_terminal(monkeypatch, capsys, seconds, terminal, yes, answer, asks):
    questions = []
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: terminal))
    monkeypatch.setattr(typer, "confirm", lambda question: questions.append(question) or answer)
    with pytest.raises(typer.Exit) if asks and not answer else nullcontext():
        line.agree([stage(seconds)], asked(yes=yes))
    assert bool(questions) == asks and "3 jobs, about 60 minutes" in capsys.readouterr().out


def test_the_version_is_the_installed_ones(monkeypatch):
    monkeypatch.setattr(line, "version", lambda name: f"1.2 of {name}")
    assert line.release() == "1.2 of reasoning-aware-pruning"

    monkeypatch.setattr(line, "version", Mock(side_effect=PackageNotFoundError))
    assert line.release() == "not installed"


# the wizard


def answered(monkeypatch, *answers: str) -> tuple[list[str] | None, str]:
    """What the wizard makes of answers, and what it printed."""
    left, console = list(answers), Console(record=True, width=200, file=io.StringIO())
    monkeypatch.setattr(wizard, "Console", lambda: console)
    monkeypatch.setattr(console, "input", lambda *_, **__: left.pop(0))
    found = wizard.asked()
    assert not left
    return found, console.export_text()


def test_answers_become_a_command_line(monkeypatch, tmp_path):
    (tmp_path / "my model").mkdir()
    (tmp_path / "mine.jsonl").write_text('{"text": "a"}')
    model, data = str(tmp_path / "my model"), str(tmp_path / "mine.jsonl")
    wanted = [model, "--data", data, "--sparsity", "20,40", "--effort", "quick", "--gguf", "q8_0", "--gguf", "f16"]
    found, said = answered(monkeypatch, model, data, "20,40", "quick", "q8_0, f16", "y")
    assert found == wanted and shlex.join(["prune", *wanted]) in said
    assert answered(monkeypatch, model, data, "20,40", "quick", "q8_0,f16", "n")[0] is None
    (tmp_path / "plan").mkdir()
    monkeypatch.chdir(tmp_path)  # a folder with the name of a command
    assert answered(monkeypatch, "plan", data, "20", "quick", "Q8_0", "n")[1].count("prune ./plan --data") == 1
    usual = [model, "--data", data, "--sparsity", "20,30", "--effort", "standard"]
    assert answered(monkeypatch, model, data, "", "", "", "y")[0] == usual


def test_what_cannot_be_is_asked_again(monkeypatch, tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"text": "a"}')
    data = str(tmp_path / "mine.jsonl")
    model, much = ("", "no such", "a/b"), ("0", "bytes=9XB", "bytes=9GB")
    rest = ("fast", "standard", "q1_0", "none", "y")
    found, said = answered(monkeypatch, *model, "no such", data, *much, *rest)
    assert found == ["a/b", "--data", data, "--budget", "bytes=9GB", "--effort", "standard"]
    wrong = ("no such: neither a folder", "No such file", "--sparsity 0: whole per cent", "'XB'", "--effort fast")
    assert all(each in said for each in (*wrong, "no type 'q1_0'"))


# a folder that holds another run


def test_what_differs_from_the_run_that_a_folder_holds_is_said_in_a_line(tmp_path):
    path, before, now = tmp_path / "prune.yaml", {"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": [4]}
    assert config_file.replaced(path, before, "prune m") is None
    path.write_text(config_file.signed(text(before, "prune m --data x")))
    assert config_file.replaced(path, before, "prune m --data x --cores 3") is None
    said = config_file.replaced(path, now, "prune m --data y")
    assert said.startswith(f"{tmp_path} holds a run of `prune m --data x`; `prune m --data y` changes a.c, d. ")
    assert "--out another folder" in said and "\n" not in said
    many = config_file.replaced(path, {name: 1 for name in "efghij"}, "prune m")
    assert "changes a, e, f, g and 3 more. " in many


# what can be taken away

PADDED = {"rku_global": DEFAULT.method("rku_global").model_copy(update={"export": "pad"})}


@pytest.mark.parametrize(
    ("family", "methods", "message"),
    [
        ("qwen2", ["attention_obs", "flap", "wanda"], None),
        ("qwen3", ["wanda", "rku"], None),
        ("qwen3", PADDED, None),
        ("qwen3", ["rku", "rku_global"], "--gguf: rku_global: gguf: llama.cpp's qwen3 has no layers of different"),
        ("granite", ["flap"], "--gguf: flap: .* layers of different widths .* `export: pad`, with which all have 48"),
        ("llama", ["obs_joint"], "--gguf: obs_joint: gguf: models pruned in more than FFN neurons"),
        ("cohere", ["wanda"], "model type 'cohere' is not converted"),
    ],
)
def test_methods_whose_models_become_no_file_are_refused(tmp_path, family, methods, message):
    tiny.with_a_merge(tiny.save(tiny.of_family(family), tmp_path))
    found = {name: DEFAULT.method(name) for name in methods} | (methods if methods is PADDED else {})
    with pytest.raises(InputError, match=message) if message else nullcontext():
        take.check(found, tmp_path)


def test_commands_name_whole_paths_and_what_a_model_needs(tmp_path, monkeypatch):
    tmp_path /= "export"  # as /export/home: the run's own is the last of this name
    tmp_path.mkdir()
    monkeypatch.chdir(tmp_path)
    folder = Path("my results/m/export/own/wanda/50/model")
    folder.mkdir(parents=True)
    tiny.save(tiny.qwen2(), folder)
    found = take.commands(folder, [folder.with_name("gguf") / "q8_0.gguf"], 'a "b"\n')
    assert list(found) == ["Python", "vLLM", "llama.cpp, q8_0", "Ollama, q8_0"]
    compile(found["Python"], "snippet", "exec")
    assert "trust_remote_code" not in found["Python"]
    assert shlex.split(found["vLLM"]) == ["vllm", "serve", str(tmp_path / folder)]
    file = tmp_path / folder.with_name("gguf") / "q8_0.gguf"
    assert shlex.split(found["llama.cpp, q8_0"]) == ["llama-cli", "-m", str(file)]
    create, start = found["Ollama, q8_0"].split(" && ")
    assert shlex.split(create) == ["ollama", "create", "m-own-wanda-50-q8_0", "-f", str(file.with_suffix(".Modelfile"))]
    assert start == "ollama run m-own-wanda-50-q8_0"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {}}))
    found = take.commands(folder, [], "a")
    assert "trust_remote_code=True" in found["Python"] and "--trust-remote-code" in found["vLLM"]


def test_the_printed_prompt_begins_as_the_model_was_calibrated(tmp_path):
    """A chat format that writes the first token itself: the tokenizer adds no second one."""
    folder = tiny.save(tiny.qwen2(), tmp_path)
    own = json.loads((folder / "tokenizer_config.json").read_text())
    for first in ("<bos>", {"__type": "AddedToken", "content": "<bos>"}):
        (folder / "tokenizer_config.json").write_text(json.dumps(own | {"bos_token": first}))
        assert "add_special_tokens=False)" in take.commands(folder, [], "<bos>user: hi")["Python"]
        assert "add_special_tokens" not in take.commands(folder, [], "hi")["Python"]
    assert "add_special_tokens" not in take.commands(tiny.save(tiny.qwen2(), tmp_path / "no"), [], "hi")["Python"]


@pytest.mark.parametrize(
    ("width", "name", "whole"),
    [(80, "quick, 20%", True), (80, "standard_vocabulary_60pct, 38%", True), (60, "quick, 20%", False)],
)
def test_no_word_of_a_printed_table_is_lost(width, name, whole):
    heads = ["Model", "Perplexity", "KL to dense", "Validation", "Weights", "Prefill", "Decoding", "Front"]
    cells = [name, "100,519", "0.002", "-0.6%", "7.4 MB", "1.24×", "1.01×", "✓"]
    printed = io.StringIO()
    Console(file=printed, width=width).print(line.rendered(templates.table(heads, [cells])))
    said = printed.getvalue()
    assert "…" not in said
    assert not whole or all(word in said for cell in (*heads, *cells[1:]) for word in cell.split())


def test_a_prompt_to_show_is_short(tmp_path):
    data = tmp_path / "test.jsonl"
    pairs = [{"prompt": "x" * 400, "completion": "a"}, {"prompt": "short?\n", "completion": "b"}]
    data.write_text("\n".join(map(json.dumps, pairs)))
    assert take.prompt_of(data) == "short?\n"
    data.write_text(json.dumps({"prompt": "a\u2028b\x85", "completion": "a"}, ensure_ascii=False), encoding="utf-8")
    assert take.prompt_of(data) == "a\u2028b\x85"  # which str.splitlines takes for ends of lines
    data.write_text(json.dumps({"prompt": "", "completion": "c" * 100}))
    assert take.prompt_of(data) == "c" * 40

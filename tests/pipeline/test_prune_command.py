"""One command from a model and a file to a decision and a folder."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pexpect
import pytest
import yaml
from transformers import AutoModelForCausalLM

import tiny
from pruning.core import devices
from pruning.data.text import documents
from pruning.models.checkpoint import Checkpoint
from workspace import ROOT, python, run

RECORDS = [
    {"question": f"Please tell me, what is {n + 7} - {n}?", "answer": "as anyone sees, of course it is 7"}
    for n in range(300)
]


IN_LLAMA_CPP = """
import json, sys, xllamacpp
given = xllamacpp.CommonParams()
given.model.path, given.n_ctx = sys.argv[1], 64
print(json.dumps(xllamacpp.Server(given).handle_completions(json.loads(sys.argv[2]))))
"""


def line(folder, *words: str, program: Sequence[str] = ("-m", "pruning.command.line")) -> subprocess.CompletedProcess:
    return run(folder, python(), *program, *words, PYTHONPATH=str(ROOT / "scripts"))


def prune(folder, *options: str, command: Sequence[str] = ()) -> subprocess.CompletedProcess:
    return line(folder, *command, "Model", "--data", "mine.jsonl", "--cores", "2", *options)


@pytest.fixture
def own(tmp_path):
    tiny.save(tiny.qwen2(), tmp_path / "Model")
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, RECORDS)))
    return tmp_path


@pytest.mark.parametrize(
    ("family", "recovered", "note"),
    [("qwen2", True, None), ("gemma2", False, "gemma2 normalises or scales what its layers add")],
)
def test_a_model_and_data_become_a_page_and_a_folder_and_a_second_run_does_nothing(own, family, recovered, note):
    """With the standard effort; one family recovered as well, evaluated on a task of lm-eval's, run by a program and
    with an edited configuration. Its answers are judged because all reference answers end in a number, which the
    other's are told not to be; they are right and calibrated on, and the other's are not."""
    tiny.with_a_merge(tiny.save(tiny.answering("7") if recovered else tiny.of_family(family), own / "Model"))
    taken = ("--against", "Q8_0")  # of the other family llama.cpp reads layers of one width alone
    taken += ("--gguf", "q8_0", "--gguf", "f16", "--against", "Small") if family == "qwen2" else ()
    tiny.with_a_merge(tiny.save(tiny.qwen2(1), own / "Small"))
    more = "--recover distill --steps 3 --task arithmetic" if recovered else r"--answer regex:^(\w+) --questions 12"
    options = ("--sparsity", "50", *more.split(), *taken)
    planned = prune(own, *options, command=["plan"]) if family == "qwen2" else None
    done = prune(own, *options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    page = (own / "pruned/decision.md").read_text()
    assert re.search(r"^(\d+) of \1 jobs, \d+:\d\d: ", done.stderr, re.M) and done.stderr.count("Traceback") == 0
    folder = own / page.split("It lies in `")[1].partition("`")[0]
    assert AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).num_parameters() > 0
    assert page.count("| dense |") == 1 and "On the test data" in " ".join(done.stdout.split())
    html = (own / "pruned/decision.html").read_text()
    assert ">standard, 50%<" in html and "jobs have run in this folder" in html and "--sparsity 50" in html
    assert all(f'data-chart="{chart}"' in html for chart in ("perplexity/bytes", "widths")) and "✓" in html
    assert html.count("<article>") == 5 and "decision.html" in done.stdout
    assert "standard, 50% |" in page.replace("**", "")
    assert ("standard, 50%, recovered |" in page.replace("**", "")) == recovered
    assert "Weight reconstruction takes up to 0.0 GB of memory" in done.stdout
    assert not note or f"Note: {note}" in done.stdout and f"* {note}" in page
    _, head, _, dense, *others = page[page.index("| Model |") - 1 :].splitlines()
    measured = ["Perplexity", "KL to dense", "Right answers", "Cut off"]
    if recovered:
        measured[:2] = ["Perplexity of right answers", "KL to dense", "Perplexity of your data"]
        measured.append("Arithmetic")
    assert [cell.strip() for cell in head.split("|")[2 : 2 + len(measured)]] == measured
    assert [row.split("|")[3].strip() == "0" for row in (dense, others[0])] == [True, False]
    check_own_answers(own / "pruned", page, recovered)
    model = yaml.safe_load((own / "pruned/prune.yaml").read_text())["models"]["model"]
    assert devices.visible() or model["threads"] == 2  # all: only one model is pruned
    check_parts(own / "pruned", 2 if recovered else 1, "number" if recovered else "regex:")
    if planned:
        check_against(own, page, html)
        check_plan(planned.stdout, done.stderr)
        check_commands(done.stdout, folder)
    made = times(own)
    if not recovered:
        again = prune(own, *options)
        assert again.returncode == 0 and "Nothing is left to do: all of it is there." in again.stdout
        assert made == times(own)
        return
    program = "found = pruning.prune('Model', 'mine.jsonl', 0.5, cores=2, recover='distill', steps=3, "
    program += "tasks=['arithmetic'])\nprint(len(found.table), found.best)\npruning.load(found.best)"
    (own / "again.py").write_text(f"import pruning\n{program}")
    done = line(own, program=["again.py"])
    assert done.stdout.splitlines()[-1:] == [f"3 {folder.relative_to(own)}"], done.stdout[-3000:] + done.stderr[-3000:]
    assert made == times(own)
    assert line(own, "status").stdout == "all jobs have ended\n"
    check_edited(own, options)


def test_without_data_a_tasks_training_data_are_calibrated_on(own):
    done = line(own, "plan", "Model", "--task", "arithmetic", "--sparsity", "50", "--cores", "2")
    assert "jobs, about" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    assert not (own / "pruned/results/model/compact").exists()
    parts = {part: (own / f"pruned/own-data/{part}.jsonl").read_text().splitlines() for part in ("train", "test")}
    assert all(re.fullmatch(r" -?\d+", json.loads(each)["completion"]) for each in parts["test"])
    assert 550 < len(parts["train"]) < 750 and not {*parts["train"]} & {*parts["test"]}
    done = line(own, "Model", "--cores", "2")
    assert (done.returncode, "--data is missing: give JSON Lines, or a --task" in done.stderr) == (1, True)


def times(own: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (own / "pruned/results").rglob("*.parquet")}


def check_edited(own: Path, options: Sequence[str]) -> None:
    """A configuration that was edited is used as it is, and stays."""
    config = own / "pruned/prune.yaml"
    mine = config.read_text().replace("title: Your model, pruned", "title: Mine")
    config.write_text(mine)
    done = prune(own, *options)
    assert done.returncode == 0 and config.read_text() == mine
    assert "pruned/prune.yaml: tables.table1.title: Mine (by the command line: Your model, pruned)" in done.stdout
    assert "pruned/prune.yaml: models: does not name small of --against, which is left out" in done.stdout
    assert "Mine" in (own / "pruned/results/table1.md").read_text()
    config.write_text(mine.replace("micro_batch", "microbatch"))
    done = prune(own, *options)
    assert done.returncode == 1 and "prune.yaml: calibrations.own.microbatch: unknown key" in done.stderr


def check_against(own: Path, page: str, html: str) -> None:
    """Every model as an 8-bit file beside the dense one's, on the test data, the verdict by the validation data; and
    beside another model, by the test questions."""
    made = pd.read_csv(own / "pruned/results/table1-bytes.csv")
    tested = made[made["column"] == "own_answers@own"]
    assert set(tested["type"].dropna()) == {"q8_0"} and (tested["method"] == "standard").sum() == 2
    assert page.count("Or the dense model in fewer bits") == html.count("Or the dense model in fewer bits") == 1
    _, fewer, smaller = page.split("| File | MB | Right answers |")
    rows = fewer.partition("\n## ")[0].splitlines()[2:]
    assert len([row for row in rows if row.startswith("| ")]) == len(tested)
    assert "## Or the dense model in fewer bits\n\nBy perplexity of right answers on the validation data: " in page
    assert "## Or a smaller model\n\nBy right answers on the test data: " in fewer and "| small, Q8_0 |" in smaller


def check_own_answers(folder: Path, page: str, right: bool) -> None:
    """What was calibrated on, and by what the choice was made."""
    config = yaml.safe_load((folder / "prune.yaml").read_text())
    said = "The dense model answers {} of {} training questions right"
    assert config["calibrations"]["own"].get("answers") == ("own_answers_train" if right else None)
    if not right:
        assert f"{said.format(0, 25)} and to the end, too few to calibrate on" in page
        return
    count = config["tasks"]["own_answers_train"]["limit"]
    assert f"{said.format(count, count)} and to the end. Models are calibrated on these answers" in page
    answers = {part: f"results/model/answers/own_answers{part}.parquet" for part in ("_train", "_validation", "")}
    texts = {part: documents(folder / path, "{prompt}", "{completion}") for part, path in answers.items()}
    asked = {prompt for text in texts.values() for prompt, _ in text}
    assert len(asked) == sum(map(len, texts.values()))
    assert {answer for text in texts.values() for _, answer in text} == {"7"}
    assert "smallest model whose perplexity of right answers on the validation data" in page or "Do not prune" in page


def check_plan(printed: str, shown: str) -> None:
    """What `prune plan` said, against the jobs that ran after it; the plan's own were fetched already. The training
    questions were asked in two jobs, the first few before the others."""
    [total] = re.findall(r"^(\d+) jobs, about \d+ minutes? with 2 cores, up to [\d.]+ GB of memory", printed, re.M)
    rows = dict(re.findall(r"│ (\w+) +│ +(\d+) │", printed))
    ran = [line.split(": ")[1].split()[0] for line in re.findall(r"^\d+ of \d+ jobs, .*", shown, re.M)]
    ran = Counter(re.sub(r"_together_\d+$", "", rule) for rule in ran)
    planned = Counter({stage: int(jobs) for stage, jobs in rows.items()})
    assert ran - planned == {"evaluate": 1} and not planned - ran
    assert int(total) == planned.total()


def check_commands(printed: str, folder: Path) -> None:
    """What `prune` ended in works: in transformers, in llama.cpp, and by its line where there is llama-cli."""
    said = dict(re.findall(r"^# (.+)\n((?:.+\n|\n(?!#))+)", printed.split("To use the model:")[1] + "\n", re.M))
    assert list(said) == ["Python", "vLLM", "llama.cpp, q8_0", "Ollama, q8_0", "llama.cpp, f16", "Ollama, f16"]
    with contextlib.redirect_stdout(io.StringIO()) as answer:
        exec(said["Python"], {})  # noqa: S102
    assert answer.getvalue().startswith("Please tell me, what is ") and str(folder) in said["Python"]
    assert shlex.split(said["vLLM"])[:3] == ["vllm", "serve", str(folder)]
    for kind in ("q8_0", "f16"):
        tool, _, file = shlex.split(said[f"llama.cpp, {kind}"])
        modelfile = Path(shlex.split(said[f"Ollama, {kind}"])[4])
        assert f"FROM ./{Path(file).name}" in modelfile.read_text() and modelfile.parent == Path(file).parent
        asking = {"prompt": "What is 3 + 3?\n", "max_tokens": 4, "temperature": 0}
        answer = run(folder, python(), "-c", IN_LLAMA_CPP, file, json.dumps(asking))
        assert answer.returncode == 0 and json.loads(answer.stdout)["usage"]["completion_tokens"] > 0, answer.stderr
        if shutil.which(tool):
            own = [tool, "-m", file, "-p", "What is 3 + 3?", "-n", "4", "--single-turn", "--no-warmup"]
            assert subprocess.run(own, capture_output=True, stdin=subprocess.DEVNULL, timeout=60).returncode == 0


def check_parts(folder, pruned: int, judged: str) -> None:
    """What choices are made by, calibration and numbers shown have other records each; so many models, all measured,
    and every file as it was made."""
    walked = run(folder, python(), str(ROOT / "scripts/verify.py"))
    assert walked.returncode == 0 and " 0 mistakes" in walked.stdout, walked.stdout
    parts = [{json.loads(line)["prompt"] for line in path.open()} for path in (folder / "own-data").glob("*.jsonl")]
    assert len(parts) == 3 and len(set.union(*parts)) == sum(map(len, parts)) == len(RECORDS)
    table, chosen_by = (pd.read_csv(folder / f"results/{name}.csv") for name in ("table1", "validation"))
    assert set(table["task"]) >= {"own", "own_answers"} and set(chosen_by["task"]) == {"own_validation"}
    assert len(chosen_by) == 1 + pruned == (table["metric"] == "kl").sum()
    divergences = table.loc[table["metric"] == "kl", "value"]
    assert divergences.iloc[0] == 0 and (divergences.iloc[1:] > 1e-4).all()
    [file] = folder.glob("results/model/eval/dense/own_answers.samples.parquet")
    answers = pd.read_parquet(file)
    wanted, asked = {"number": ("7", [50]), "regex:": ("as", [12])}[judged]
    assert len(answers) in asked and answers["target"].str.fullmatch(wanted).all()
    assert answers["response"].str.len().gt(0).any()


def test_without_arguments_it_asks_on_a_terminal_and_else_says_how(own):
    assert re.fullmatch(r"prune \S+\n", line(own, "--version").stdout)
    done = line(own)
    assert done.returncode == 2 and "Examples:" in done.stdout and done.stdout.count("prune plan") > 1
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "TERM": "dumb", "COLUMNS": "200"}
    command = [python(), "-m", "pruning.command.line"]
    asking = pexpect.spawn(command[0], command[1:], cwd=own, env=environment, encoding="utf-8", timeout=60)
    given = {"Model": "Model", "Data": "mine.jsonl", "remove": "30", "Effort": "", "GGUF": "q8_0", "Run": "n"}
    for question, answer in given.items():
        asking.expect(question)
        asking.expect(": ")
        asking.sendline(answer)
    asking.expect(pexpect.EOF)
    asking.close()
    assert asking.exitstatus == 0 and not (own / "pruned").exists()


def test_mistakes_are_one_line_in_the_words_of_what_failed(own):
    done = prune(own, "--budget", "bytes=9QB")
    assert (done.returncode, done.stderr.count("\n"), (own / "pruned").exists()) == (1, 1, False)
    done = prune(own, "--methods", "wandaa")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "--methods: unknown name 'wandaa'; nearest: wanda" in done.stderr  # before anything is fetched
    assert not (own / "pruned/prune.log").exists()
    done = prune(own, "--recover")
    assert done.returncode == 2 and "Option '--recover' requires an argument" in done.stderr
    (own / "mine.jsonl").write_text("\n".join(json.dumps({"text": f"Text {n}."}) for n in range(99)))
    done = prune(own, "--questions", "9")
    assert done.returncode == 1 and "--questions 9: no answers are judged" in done.stderr


def test_a_budget_in_place_of_a_sparsity_compares_methods_at_equal_cost(own):
    """FLAP's biases make its sparsity another than Wanda's."""
    options = ("--budget", "parameters=80%", "--methods", "wanda,flap,attention_obs")
    done = prune(own, *options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folder, page = own / "pruned/results", (own / "pruned/decision.md").read_text()
    [model] = {path.parents[3].name for path in folder.glob("*/budget/own/*/asked.json")}
    dense = Checkpoint(folder / model / "base").parameters
    kept = {}
    for method in ("wanda", "flap", "attention_obs"):
        found = json.loads((folder / model / f"budget/own/{method}/asked.json").read_text())
        tensors = Checkpoint(folder / model / f"compact/own/{method}/{found['sparsity']}/model")
        kept[method] = tensors.parameters
        assert found["cost"]["value"] == tensors.parameters <= 0.8 * dense == found["target"]
        assert found["tried"][found["sparsity"] - 2]["value"] > 0.8 * dense  # a per cent less
        assert f"* {method}: {found['sparsity']}%, {tensors.parameters:,} parameters" in page
        assert page.replace("**", "").count(f"| {method}, {found['sparsity']}% |") == 1
    table = pd.read_csv(folder / "table1.csv").query("metric == 'perplexity'")
    assert table["method"].tolist() == ["dense", "wanda", "flap", "attention_obs"]
    assert table["reference"].tolist()[1:] == ["dense"] * 3
    assert re.search("Of the models that meet the budget it is the best|of every model that meets the budget", page)
    assert "at equal cost" in page
    taken = own / page.split("It lies in `")[1].partition("`")[0]
    assert AutoModelForCausalLM.from_pretrained(taken, trust_remote_code=True).num_parameters() in kept.values()
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}
    again = prune(own, *options)
    assert again.returncode == 0 and "Nothing is left to do" in again.stdout
    assert made == {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}
    # A budget out of reach ends before any job.
    refused = prune(own, "--budget", "parameters=14000", "--methods", "wanda")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "budget: parameters: 14000 cannot be reached: the least is 14848" in refused.stderr
    assert "nothing to prune" in prune(own, "--budget", "bytes=1GB", "--methods", "wanda").stderr


def test_a_mixture_of_experts_keeps_fewer_of_them(own):
    """Two scores are compared, attention alone is recovered, and what is taken is a stock model."""
    tiny.with_a_merge(tiny.save(tiny.of_family("qwen3_moe"), own / "Model"))
    done = prune(own, "--sparsity", "50", "--effort", "quick", "--recover", "distill", "--steps", "2", "--gguf", "f16")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    page, html = ((own / f"pruned/decision.{kind}").read_text() for kind in ("md", "html"))
    assert "With 50% of the experts removed" in page and "taylor_fo and frequency are compared" in page
    rows = [f"{method}, 50%{also}" for method in ("taylor_fo", "frequency") for also in ("", ", recovered")]
    assert all(f"| {row} |" in page.replace("**", "") for row in rows)
    compared = re.findall(r"^\* frequency, 50%(, recovered)?, against taylor_fo: perplexity \S+ and \S+ \(", page, re.M)
    assert compared == ["", ", recovered"]
    assert "Share of the experts that each layer keeps" in html and "FFN neurons" not in html
    folder = own / page.split("It lies in `")[1].partition("`")[0]
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_experts == 3
    assert "llama-cli" in done.stdout and "vllm serve" in done.stdout
    tuned = yaml.safe_load((own / "pruned/prune.yaml").read_text())["tunings"]["own"]
    assert tuned["targets"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    counted = prune(own, "--budget", "parameters=80%", "--methods", "frequency", "--out", "smaller")
    assert counted.returncode == 0 and "in whole per cent of the experts" in (own / "smaller/decision.md").read_text()

"""Task definitions: one reader for snakemake's start and for the jobs, and what it refuses."""

import json
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml
from lm_eval.tasks._yaml_loader import load_yaml

from pruning.config import preflight
from pruning.config.default import DEFAULT
from pruning.core.errors import InputError
from pruning.evaluation import tasks
from workspace import ROOT

OURS = sorted((ROOT / "config/tasks").glob("*.yaml"))
PACKAGED = Path(tasks.packaged_folder(Path()))
GSM8K = PACKAGED / "gsm8k/gsm8k.yaml"
LISTED = "darija_bench/darija_translation/doda_translation_msa_dr.yaml"  # includes two files


def write(path: Path, content: dict | str) -> Path:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def as_lm_eval_reads(definition: dict, folder: Path) -> dict:
    """With includes; of functions, before which lm-eval writes their folder, the names alone."""
    return without_folders(load_yaml(write(folder / "task.yaml", definition), resolve_func=False))


def without_folders(read: dict) -> dict:
    return json.loads(re.sub(re.escape(str(PACKAGED)) + r"/[\w/]*/", "", json.dumps(read)))


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_definitions_are_read_as_lm_eval_reads_them(path, tmp_path):
    """Functions that packaged files name are text, and stay there: their files are included by their place."""
    definition = tasks.definition(path)
    assert tasks.with_includes(definition) == as_lm_eval_reads(definition, tmp_path)
    if path.stem == "winogrande":
        assert definition["include"] == str(PACKAGED / "winogrande/default.yaml") and "doc_to_text" not in definition


@pytest.mark.parametrize("include", [LISTED, ["gsm8k/gsm8k.yaml", "arc/arc_easy.yaml"], "arc/arc_challenge.yaml"])
def test_includes_of_includes_are_merged_as_lm_eval_does(include, tmp_path):
    path = write(tmp_path / "mine.yaml", {"include": include, "dataset_path": "parquet"})
    definition = tasks.definition(path)
    found = tasks.with_includes(definition)
    assert found == as_lm_eval_reads(definition, tmp_path)
    assert found["dataset_path"] == "parquet" and len(found) > 9


def test_own_includes_are_merged_as_lm_eval_does(tmp_path):
    write(tmp_path / "ground.yaml", {"include": "gsm8k/gsm8k.yaml", "description": "a", "test_split": "validation"})
    middle = write(tmp_path / "middle.yaml", {"include": "ground.yaml", "description": "b", "dataset_name": "x"})
    path = write(tmp_path / "mine.yaml", {"include": "middle.yaml", "dataset_name": None})
    found = tasks.with_includes(tasks.definition(path))
    assert tasks.files(path) == [path, middle, tmp_path / "ground.yaml"]
    write(tmp_path / "ground.yaml", {**yaml.safe_load((tmp_path / "ground.yaml").read_text()), "include": str(GSM8K)})
    assert found == without_folders(load_yaml(path, resolve_func=False))
    assert found["description"] == "b" and found["dataset_name"] is None and found["test_split"] == "validation"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("include: mine.yaml\n", r"mine\.yaml: include: mine\.yaml includes itself"),
        ("include: other.yaml\n", r"mine\.yaml: include: other\.yaml includes itself"),
        ("doc_to_text: !function utils.text\n", "included.yaml: .*only lm-eval's own files may name functions"),
        ("task: a\ntask: b\n", r"included\.yaml:2: task: this key stands twice"),
        (
            "include: absent.yaml\n",
            r"included\.yaml: include: lm-eval has no task file absent\.yaml; one of this folder",
        ),
        ("include: [included.yaml]\n", r"included\.yaml: include: lm-eval has no task file included\.yaml; .* alone"),
        (
            "include: ./mine.yaml\n",
            r"included\.yaml: include: lm-eval has no task file \./mine\.yaml; .* without folders",
        ),
    ],
)
def test_a_broken_include_of_our_own_is_named(content, message, tmp_path):
    included = "included" if "included" in message else "other"
    write(tmp_path / f"{included}.yaml", content)
    path = write(tmp_path / "mine.yaml", content if message.startswith("mine") else f"include: {included}.yaml\n")
    with pytest.raises(InputError, match=message):
        preflight.data_files(path)


def test_an_include_that_is_edited_is_read_again(tmp_path):
    ground = (ROOT / "config/tasks/gsm_symbolic.yaml").read_text()
    write(tmp_path / "ground.yaml", ground)
    path = write(tmp_path / "mine.yaml", "include: ground.yaml\n")
    assert preflight.data_files(path) == ["results/data/gsm_symbolic/test.parquet"]
    write(tmp_path / "ground.yaml", ground.replace("test.parquet", "validation.parquet"))
    assert preflight.data_files(path) == ["results/data/gsm_symbolic/validation.parquet"]


def test_functions_of_our_own_are_refused_at_the_start_and_in_a_job(tmp_path):
    path = write(
        tmp_path / "mine.yaml",
        "task: mine\ndoc_to_text: !function utils.text\n"
        "dataset_kwargs: {data_files: {test: results/data/arithmetic/test.parquet}}\n",
    )
    (tmp_path / "utils.py").write_text("def text(doc):\n    return 'x'\n")
    for read in (tasks.definition, preflight.data_files, preflight.test_file):
        with pytest.raises(
            InputError, match=r"mine\.yaml: .*line 2: !function utils\.text: only lm-eval's own"
        ) as error:
            read(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "include",
    [
        *("../../../mine.yaml", "/etc/hostname", "arc", "arc/../..", "", None, 5, ["arc/x"]),
        *("{folder}/mine.yaml", "../../../../../../../../../../../../../../../../../../..{folder}/mine.yaml"),
    ],
)
def test_only_files_of_lm_evals_task_folder_are_included(include, tmp_path):
    write(tmp_path / "mine.yaml", {"task": "x"})
    given = include.format(folder=tmp_path) if isinstance(include, str) else include
    path = write(tmp_path / "task.yaml", {"include": given})
    with pytest.raises(InputError, match=r"task\.yaml: include: lm-eval has no task file"):
        tasks.definition(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such task definition; add it, or rename the task in the config"),
        ("a folder", "directory"),
        ("- a\n- b\n", "not a mapping|no keys at its top level"),
        ("", "not a mapping|no keys at its top level"),
        ("task: [", "while parsing"),
        ("task: !!python/name:os.system x", "could not determine a constructor|the tag .* is not read here"),
        (b"task: \xff", "can't decode|not UTF-8"),
        ("include: gsm8k/absent.yaml\n", r"has no task file gsm8k/absent\.yaml"),
        ("include: README.md\n", r"README\.md: broken task definition"),
    ],
)
@pytest.mark.parametrize("read", [tasks.definition, preflight.data_files])
def test_broken_task_definitions_are_named(tmp_path, read, text, message):
    path = tmp_path / "mine.yaml"
    if text == "a folder":
        path.mkdir()
    elif text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    name = "" if "README" in message else path
    with pytest.raises(InputError, match=rf"(?s){name}.*{message}"):
        read(path)


def test_definitions_are_checked_as_text(tmp_path):
    """Of what else is refused tests/unit/test_strict_yaml.py says more."""
    with pytest.raises(InputError, match="mine.yaml:2: task: this key stands twice"):
        preflight.metric_names(write(tmp_path / "mine.yaml", "task: a\ntask: b\n"))


@pytest.mark.parametrize(("line", "refused"), [("", False), ("num_fewshot: 3\n", False), ("num_fewshot: 0\n", True)])
def test_examples_that_a_definition_forbids_are_refused(tmp_path, monkeypatch, line, refused):
    """lm-eval keeps to `num_fewshot: 0`, and a table would say that there were some."""
    whole = re.sub("num_fewshot: .*\n", "", (ROOT / "config/tasks/gsm_symbolic.yaml").read_text())
    (tmp_path / "config/tasks").mkdir(parents=True)
    (tmp_path / "config/tasks/mine.yaml").write_text(line + whole)
    monkeypatch.chdir(tmp_path)
    task = DEFAULT.tasks["gsm_symbolic"].model_copy(update={"num_fewshot": 8})
    config = DEFAULT.model_copy(update={"tasks": {"mine": task}})
    said = "tasks.mine.num_fewshot: 8, but .*mine.yaml says num_fewshot: 0, which lm-eval keeps to"
    with pytest.raises(InputError, match=said) if refused else nullcontext():
        preflight._check_data(config)


def test_reading_needs_neither_torch_nor_lm_eval():
    code = (
        "import sys; from pathlib import Path; from pruning.config import preflight\n"
        "print(preflight.data_files(Path('../config/tasks/winogrande.yaml')))\n"
        "print({'torch', 'lm_eval', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True)
    assert done.stdout.splitlines() == ["['results/data/winogrande/validation.parquet']", "set()"], done.stderr


def test_without_lm_eval_an_include_is_refused(monkeypatch):
    monkeypatch.setattr(tasks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"winogrande\.yaml: include: lm-eval is not installed here"):
        tasks.definition(ROOT / "config/tasks/winogrande.yaml")


ODD = {  # what is said -> changes of a definition
    "dataset_kwargs (a parquet path a split): Input should be": {"dataset_kwargs": None},
    "dataset_kwargs.data_files (a parquet path a split): Input": {"dataset_kwargs": {"data_files": ["a.parquet"]}},
    "metric_list.0.metric: Field required": {"metric_list": [{}]},
    "task: Input should be a valid string": {"task": None},
    "dataset_path: Input should be 'parquet'": {"dataset_path": "gsm8k"},
    "output_type: Input should be 'generate_until', 'multiple_choice',": {"output_type": "generate"},
    "doc_to_target: Input should be a valid string": {"doc_to_target": None},
    "doc_to_text: Input should be a valid string": {"doc_to_text": ["a"]},
    "doc_to_text: no template: unexpected end of template": {"doc_to_text": "{{ question"},
    "doc_to_text: no template: Expected an expression": {"doc_to_text": "{% for x in %}"},
    "doc_to_text: no template: No filter named 'shout'.": {"doc_to_text": "{{ question | shout }}"},
    "doc_to_choice: no template: unexpected 'end of template'": {"doc_to_choice": ["a", "{{"]},
    "description: no template: unexpected 'end of template'": {"description": "{{"},
    "filter_list.0.filter: Field required": {"filter_list": [{"name": "s"}]},
    "filter_list.0.filter.0.function: Field required": {"filter_list": [{"name": "s", "filter": [{}]}]},
    "generation_kwargs: Input should be": {"generation_kwargs": "x"},
    "generation_kwargs.until.str: Input should be a valid string": {"generation_kwargs": {"until": 3}},
    "generation_kwargs.max_gen_toks: Input should be a valid int": {"generation_kwargs": {"max_gen_toks": "many"}},
    "num_fewshot: Input should be greater than or equal to 0": {"num_fewshot": -1},
    "repeats: Input should be greater than 0": {"repeats": 0},
    "3: a key must be a word; quote it": {3: "x"},
    "filter_list: Input should be a valid list": {"filter_list": "strict"},
    "test_split: Input should be a valid string": {"test_split": []},
}


@pytest.mark.parametrize("message", ODD)
def test_odd_fields_are_named(tmp_path, message):
    path = tmp_path / "odd.yaml"
    whole = {"task": "odd", "dataset_kwargs": {"data_files": {"test": "results/data/a/test.parquet"}}}
    whole |= {"dataset_path": "parquet", "doc_to_text": "{{ question }}", "doc_to_target": "{{ answer }}"}
    path.write_text(yaml.safe_dump(whole))
    assert preflight.metric_names(path) == []
    path.write_text(yaml.safe_dump({**whole, **ODD[message]}))
    with pytest.raises(InputError, match=re.escape(f"{path}: {message}")):
        preflight.metric_names(path)

"""Tasks asked of vLLM, or of what stands in for it here (tests/stand_in): the answers are those of the model itself."""

import importlib
import json
import shlex
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import evaluate as stage
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from lm_eval.api.instance import Instance

import tiny
from pruning.command import take
from pruning.config import mixtures
from pruning.core import artifacts, devices
from pruning.core.artifacts import key_of
from pruning.core.errors import InputError
from pruning.evaluation import backends, recovery
from pruning.evaluation.answers import AnswerFile, CachingLM
from pruning.methods import variants
from pruning.models import loading, remote_code, served
from workspace import ROOT

QUESTIONS = ["one", "twenty two", "three", "forty four four", "5 5", "and six"]
SUMS = {
    "task": "sums",
    "dataset_path": "parquet",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "x",
    "generation_kwargs": {"until": [*"abcdefghijklm", "Q1"], "max_gen_toks": 16},  # nothing is said of sampling
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
OPTIONS = {
    **{key: SUMS[key] for key in ("dataset_path", "test_split", "doc_to_text")},
    "task": "options",
    "output_type": "multiple_choice",
    "doc_to_choice": "{{[' a', ' b', ' c', ' de', ' fg', ' hi']}}",
    "doc_to_target": 0,
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
ASKED = {"kind": "lm_eval", "dtype": "float32", "batch_size": 4, "limit": None, "first": 0}
ASKED |= {"num_fewshot": None, "shared_examples": False, "chat_template": False, "max_gen_toks": None}
BACKEND = "pruning.evaluation.backends.vllm"
METRICS = {"sums": ["exact_match"], "options": ["acc"]}


@pytest.fixture(scope="module")
def package():
    """vLLM, or its stand-in, of which nothing is left afterwards but lm-eval's class, which is registered once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tests/stand_in"))
        for name in ("VLLM_NO_USAGE_STATS", "VLLM_ENABLE_V1_MULTIPROCESSING"):
            patch.setenv(name, "")
        yield importlib.import_module("pruning.evaluation.backends.vllm")
        for name in [name for name in sys.modules if name.split(".")[0] == "vllm" or name == BACKEND]:
            del sys.modules[name]


@pytest.fixture
def backend(package, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return package


@pytest.fixture
def stand_in(backend):
    import vllm

    vllm.LLM.made.clear()
    return vllm


class Lab:
    """A dense model, masks of it, and two tasks of lm-eval with their data."""

    def __init__(self, folder: Path, family: str = "qwen2"):
        self.folder = folder
        tiny.fetched(folder / "base", tiny.of_family(family))
        rows = pd.DataFrame({"question": QUESTIONS, "answer": "x"})
        artifacts.write_parquet(folder / "data.parquet", rows, "dataset", {})
        for task in (SUMS, OPTIONS):
            own = {**task, "dataset_kwargs": {"data_files": {"test": str(folder / "data.parquet")}}}
            (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump(own))

    def settings(self, **own) -> None:
        """The model's generation_config.json; its ends are special tokens, as they are."""
        tokenizer = tiny.tokenizer()
        ends = tokenizer.convert_ids_to_tokens(np.atleast_1d(own.get("eos_token_id", 0)).tolist())
        tokenizer.add_special_tokens({"extra_special_tokens": ends})
        tokenizer.save_pretrained(self.folder / "base")
        (self.folder / "base/generation_config.json").write_text(json.dumps(own))
        tiny.record(self.folder / "base")

    def mask(self, widths: tuple[int, int]) -> Path:
        return tiny.write_mask(self.folder / f"{widths}.parquet", tiny.keeps(*widths))

    def parts(self, *widths: int) -> variants.Parts:
        mask = self.mask(widths) if widths else None
        return variants.Parts(self.folder / "base", self.folder / "base/manifest.json", mask)

    def adapter(self) -> Path:
        network, _ = loading.load(self.folder / "base", "float32", "cpu")
        tuned = recovery.with_adapters(network, {"rank": 2, "alpha": 4, "targets": ["up_proj", "q_proj"], "seed": 0})
        for number, (name, parameter) in enumerate(tuned.named_parameters()):
            if "lora_" in name:
                parameter.data = 0.3 * torch.randn(parameter.shape, generator=torch.manual_seed(number))
        tuned.save_pretrained(path := self.folder / "adapter")
        return path

    def ask(self, backend: str, name: str, tasks=("sums", "options"), extra=(), **parts) -> dict[str, pd.DataFrame]:
        """Samples by task, as the stage has written them."""
        own = {"backend": backend, "max_model_len": None} if backend != "hf" else {}
        settings = {task: {**ASKED, "metrics": METRICS[task], **own} for task in tasks} | dict(extra)
        sources = [f"{task}={self.folder / task}.yaml" for task in tasks]
        sources += [f"{name}={self.folder}/data.parquet" for name in dict(extra)]
        base = self.folder / "base"
        variant = {"model": base, "manifest": base / "manifest.json", **parts}
        stage.evaluate({"tasks": settings}, variant, sources, self.folder / name)
        files = {task: self.folder / name / f"{task}.samples.parquet" for task in settings}
        return {task: artifacts.read_parquet(file, "samples") for task, file in files.items()}


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Lab:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    return Lab(tmp_path)


VARIANTS = {
    "dense": {},
    "uniform": {"mask": (20, 20)},
    "uneven": {"mask": (7, 31)},
    "uneven, with a bias": {"mask": (7, 31), "compensate": "bias"},
    "uniform, with a bias": {"mask": (20, 20), "compensate": "bias"},
    "dense, two ends": {"generation": {"eos_token_id": [26, 83]}},
    "uneven, ends and a penalty": {"mask": (7, 31), "generation": {"eos_token_id": [26], "repetition_penalty": 1.3}},
}


@pytest.mark.parametrize("kind", VARIANTS)
def test_answers_are_those_of_the_model_itself(lab, stand_in, kind):
    parts = dict(VARIANTS[kind])
    lab.settings(**(own := parts.pop("generation", {"eos_token_id": 0})))
    if "mask" in parts:
        parts["mask"] = lab.mask(parts["mask"])
    if "compensate" in parts:
        parts["evidence"] = tiny.write_statistics(lab.folder / "statistics.parquet")
    expected, found = lab.ask("hf", "ours", **parts), lab.ask("vllm", "theirs", **parts)
    for task in expected:
        pd.testing.assert_frame_equal(found[task], expected[task])
    assert {"stop", "length"} == set(found["sums"]["finish_reason"]) and found["sums"]["prediction"].nunique() > 3
    assert found["options"]["prediction"].nunique() > 1 and found["options"]["generated_tokens"].isna().all()
    (made,) = stand_in.LLM.made  # for both tasks
    own_code = kind.startswith("uneven") or kind == "uniform, with a bias"
    assert made.arguments["model_impl"] == ("transformers" if own_code else "auto")
    assert made.arguments["trust_remote_code"] is own_code
    assert Path(made.arguments["model"]).is_relative_to(lab.folder / "scratch") == ("mask" in parts)
    assert list((lab.folder / "scratch").iterdir()) == []  # removed
    for task in expected:
        ours, theirs = (json.loads((lab.folder / f / f"{task}.json").read_text()) for f in ("ours", "theirs"))
        assert theirs["results"] == ours["results"] and theirs["pruned"] == ours["pruned"]
        said = [result["provenance"]["settings"] for result in (ours, theirs)]
        assert said[1]["vllm"] == "0.33.0" and "vllm" not in said[0]
        ends = {0, *np.atleast_1d(own["eos_token_id"]).tolist()}  # the tokenizer's is one
        assert said[0]["generation"] == said[1]["generation"] == {**own, "eos_token_id": sorted(ends)}


EXPERTS = {"experts": [np.arange(6) % 2 == 0] * 2}
SERVED = {
    "uniform": ("qwen2", tiny.keeps(20, 20)),
    "uneven": ("qwen2", tiny.keeps(7, 31)),
    "mixture": ("olmoe", EXPERTS),
}


@pytest.mark.parametrize("kind", SERVED)
def test_the_line_that_serves_a_model_has_vllm_compute_it(tmp_path, stand_in, kind):
    """`prune` prints it. Its options are arguments of EngineArgs, dashes for underscores."""
    family, keeps = SERVED[kind]
    Lab(tmp_path, family)
    mask = tiny.write_mask(tmp_path / "mask.parquet", keeps)
    parts = variants.Parts(tmp_path / "base", tmp_path / "base/manifest.json", mask)
    with parts.written("float32") as folder:
        words = shlex.split(take.commands(folder, [], "hi")["vLLM"])
        assert words[:2] == ["vllm", "serve"] and words[2] == str(folder.resolve())
        options = [word.split() for word in " ".join(words[3:]).split("--")[1:]]
        given = {name.replace("-", "_"): value[0] if value else True for name, *value in options}
        started = {"trust_remote_code": False, "model_impl": "auto", "dtype": "float32", "max_model_len": None}
        served = stand_in.LLM(model=words[2], **started | given)
        network, tokenizer = loading.load(folder, "float32", "cpu")
        ids = torch.tensor([tokenizer("one and two")["input_ids"]])
        with torch.inference_mode():
            torch.testing.assert_close(served.logits(ids), network(ids).logits)


@pytest.mark.parametrize("backend_name", ["hf", "vllm"])
def test_answers_by_other_settings_are_not_served_and_a_search_is_refused(lab, stand_in, backend_name):
    answers = []
    for own in ({}, {"eos_token_id": [26, 83]}, {"repetition_penalty": 1.3}, {"repetition_penalty": 1.0}):
        lab.settings(**own)
        answers.append(lab.ask(backend_name, "same", tasks=["sums"])["sums"]["response"].tolist())
    assert answers[0] == answers[3] and answers[0] not in answers[1:3]
    refused = {"num_beams": 4, "stop_strings": ["x"]} | ({"no_repeat_ngram_size": 2} if backend_name == "vllm" else {})
    for key, value in refused.items():
        lab.settings(**{key: value}, top_p=0.8, top_k=20)
        assert lab.ask(backend_name, key, tasks=["options"])["options"]["value"].notna().all()  # nothing is generated
        with pytest.raises(InputError, match=rf"^`{key}: .*`: answers are greedy, .* generation_config.json$"):
            lab.ask(backend_name, key, tasks=["sums"])


def test_a_recovery_is_merged_into_what_it_reads(lab, stand_in):
    parts = {"adapter": lab.adapter()}
    plain, expected, found = lab.ask("hf", "plain"), lab.ask("hf", "ours", **parts), lab.ask("vllm", "theirs", **parts)
    pd.testing.assert_frame_equal(found["sums"], expected["sums"])
    assert plain["sums"]["prediction"].tolist() != expected["sums"]["prediction"].tolist()


def test_perplexity_in_the_same_job_is_the_models_own(lab, stand_in):
    text = {"kind": "perplexity", "dtype": "float32", "text": "{question}", "joiner": "-", "seqlen": 8}
    text |= {"tokens": None, "batch_size": 2}
    found = lab.ask("vllm", "theirs", tasks=["sums"], extra=[("text", text)])
    assert found["text"]["value"].tolist() == lab.ask("hf", "ours", extra=[("text", text)])["text"]["value"].tolist()
    (made,) = stand_in.LLM.made
    assert made.calls == [4, 2]  # batches of the task


def test_equal_runs_write_equal_bytes_and_ask_once(lab, stand_in):
    lab.ask("vllm", "theirs", mask=lab.mask((7, 31)))
    files = [lab.folder / "theirs" / name for name in ("sums.json", "sums.samples.parquet", "options.json")]
    before = [file.read_bytes() for file in files]
    lab.ask("vllm", "theirs", mask=lab.mask((7, 31)))
    assert [file.read_bytes() for file in files] == before
    assert [made.calls for made in stand_in.LLM.made] == [[4, 2] + 9 * [4], []]
    lab.ask("hf", "theirs", mask=lab.mask((7, 31)))
    assert len(list((lab.folder / "theirs").glob(".sums.*.jsonl"))) == 2  # a file a backend


def test_answers_of_finished_batches_survive_a_kill(lab, stand_in, monkeypatch):
    whole, calls = stand_in.LLM.generate, []

    def killed(self, prompts, **options):
        calls.append(len(prompts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, prompts, **options)

    monkeypatch.setattr(stand_in.LLM, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        lab.ask("vllm", "theirs", tasks=["sums"])
    (path,) = (lab.folder / "theirs").glob(".sums.*.jsonl")
    records = AnswerFile(path)
    assert len(records) == 4 and all(record["finish"] in ("stop", "length") for record in records.values())
    found = lab.ask("vllm", "theirs", tasks=["sums"])
    assert calls == [4, 2, 2]
    pd.testing.assert_frame_equal(found["sums"], lab.ask("hf", "ours", tasks=["sums"])["sums"])


def asked(lab, backend, max_model_len=None) -> CachingLM:
    with backend.opened(lab.parts(), {"dtype": "float32", "max_model_len": max_model_len}) as (network, tokenizer):
        return CachingLM(backend.lm(network, tokenizer, 4), AnswerFile(lab.folder / "answers.jsonl"))


def test_what_does_not_fit_is_refused_not_cut(lab, backend):
    lm = asked(lab, backend, 64)
    for kind, fitting, own, message in (
        ("generate_until", 52, {"until": ["Q"], "max_gen_toks": 12}, "53 tokens and an answer of up to 12"),
        ("loglikelihood", 60, "abc", "61 tokens and an answer of up to 4"),
    ):
        requests = [Instance(kind, {}, ("x" * (fitting + more), own), 0) for more in (0, 1)]
        getattr(lm, kind)(requests[:1], disable_tqdm=True)
        with pytest.raises(InputError, match=f"{message} do not fit .* 64 tokens"):
            getattr(lm, kind)(requests[1:], disable_tqdm=True)


def test_requests_of_several_lengths_keep_their_places(lab, backend):
    lm = asked(lab, backend)
    lengths = [3, 9, 3, 5, 9]
    own = [
        Instance("generate_until", {}, (text, {"until": [], "max_gen_toks": n}), 0)
        for text, n in zip(QUESTIONS, lengths, strict=False)
    ]
    answers = lm.generate_until(own, disable_tqdm=True)
    found = [lm.answers[key_of("generate_until", request.args)] for request in own]
    assert [record["tokens"] for record in found] == lengths and [record["response"] for record in found] == answers


def test_it_takes_the_gpus_and_the_memory_that_the_job_was_given(lab, backend, stand_in, monkeypatch):
    monkeypatch.setattr(devices, "visible", lambda: ["3", "5"])
    monkeypatch.setattr(backend.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(backend.torch.cuda, "mem_get_info", lambda card: ((20, 12)[card] * 10**9, 24 * 10**9))
    lab.ask("vllm", "theirs", tasks=["sums"], mask=lab.mask((20, 20)))
    (made,) = stand_in.LLM.made
    assert made.arguments["tensor_parallel_size"] == 2
    assert made.arguments["gpu_memory_utilization"] == pytest.approx(0.49)  # of the fuller one
    assert made.arguments["dtype"] == "float32" and made.arguments["generation_config"] == "vllm"
    with pytest.raises(InputError, match=r"over the job's 2 GPUs, and 7 neurons are no multiple .* `round_to`"):
        lab.ask("vllm", "odd", tasks=["sums"], mask=lab.mask((7, 30)))
    monkeypatch.setattr(backend.torch.cuda, "mem_get_info", lambda card: (1000, 24 * 10**9))
    with pytest.raises(InputError, match=r"GB are free on 2 GPU\(s\)"):
        lab.ask("vllm", "full", tasks=["sums"], mask=lab.mask((20, 20)))


def test_without_a_gpu_it_says_what_to_set(lab, backend, monkeypatch):
    monkeypatch.setattr(backend.current_platform, "cpu", False, raising=False)
    with pytest.raises(InputError, match="vllm needs a GPU, and this job sees none: set the model's `gpus`, or `bac"):
        asked(lab, backend)


def test_without_vllm_it_says_what_to_install(lab, monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, BACKEND, raising=False)
    said = rf"vllm is not installed in {sys.prefix}: make an environment .* \(docs/howto/vllm.md"
    with pytest.raises(InputError, match=said):
        lab.ask("vllm", "theirs")


REFUSED = {
    "scale": ("granite", {"auto_map": {}}, "leaves out this model's `logits_scaling`: use `allocate: uniform`"),
    "groups": ("llama", {"kv_groups": [1, 2]}, "equally many groups in every layer: use an `allocate` other than"),
    **dict.fromkeys(["qwen3_5_text", "lfm2"], (None, {}, "without attention were never tried in it: set the model's")),
    "deepseek_v3": (None, {}, "topk_method: None: vLLM's class for deepseek_v3 computes with noaux_tc: set the"),
    "renormalised": ("olmoe", {"norm_topk_prob": True}, "norm_topk_prob: True: vLLM's class for olmoe computes with F"),
    "clipped": ("gpt_oss", {"swiglu_limit": 5.0}, "swiglu_limit: 5.0: vLLM's class for gpt_oss computes with 7.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_would_compute_otherwise_is_refused(tmp_path, name):
    """Logits that are not scaled in the Transformers backend alone; layers with groups of their own number; routers
    that it knows in one way only."""
    family, changes, message = REFUSED[name]
    folder = tiny.save(tiny.of_family(family or name), tmp_path)
    if family:
        served.check(folder, own_code=False)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InputError, match=message):
        served.check(folder, own_code="auto_map" in changes)
    assert "vLLM" not in take.commands(folder, [], "hi")


def test_a_router_that_it_has_not_is_refused_before_any_job():
    shape = tiny.of_family("olmoe", norm_topk_prob=True).config.to_dict()
    own = SimpleNamespace(backend="hf", source=SimpleNamespace(kind="local"))
    config = SimpleNamespace(models={"m": own})
    mixtures.check(config, "m", shape, [], [])
    own.backend = "vllm"
    with pytest.raises(InputError, match="^models.m: backend: vllm: norm_topk_prob: True: vLLM's class for olmoe"):
        mixtures.check(config, "m", shape, [], [])


def test_an_experts_neurons_are_split_not_the_experts(tmp_path):
    folder = tiny.save(tiny.of_family("olmoe"), tmp_path)  # 6 experts of 24 neurons
    served.check(folder, own_code=False, gpus=8)
    with pytest.raises(InputError, match="over the job's 5 GPUs, and 24 neurons are no multiple of 5"):
        served.check(folder, own_code=False, gpus=5)


def test_layers_without_an_ffn_are_refused(lab):
    refused = pytest.raises(InputError, match="layers without an FFN were never tried in it: use a method without")
    with lab.parts(0, 31).written("float32") as folder, refused:
        served.check(folder, own_code=True)


CODE = {
    "code": ("modeling_pruned.py", lambda text: f"{text}\nprint()\n"),
    "another file": ("more.py", lambda _: ""),
    "another class": (
        "config.json",
        lambda text: text.replace('"auto_map": {', '"auto_map": {"AutoConfig": "a/b--m.C",'),
    ),
    "tokenizer": ("tokenizer_config.json", lambda text: text.replace("{", '{"auto_map": {"AutoTokenizer": "x"},', 1)),
}


@pytest.mark.parametrize("change", CODE)
def test_no_code_is_run_but_what_is_written_here(lab, change):
    with lab.parts(7, 31).written("float32") as folder:
        assert remote_code.trusted(folder) and not remote_code.trusted(lab.folder / "base")
        name, edit = CODE[change]
        before = (folder / name).read_text() if (folder / name).exists() else None
        (folder / name).write_text(after := edit(before))
        assert after != before
        with pytest.raises(InputError, match="brings code that this version of the pipeline did not write"):
            remote_code.trusted(folder)

"""The presets behind `prune --effort`, and what they become for a model and a machine."""

import re
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
from test_prune import ONE, known, made, validated

import tiny
from pruning.command import configuration, efforts, own_data, ready, right_answers
from pruning.command.configuration import build
from pruning.command.known import Own
from pruning.command.request import Request, with_effort
from pruning.config import preflight
from pruning.config.default import DEFAULT
from pruning.config.methods import Method
from pruning.core.errors import InputError
from pruning.models.gguf import BLOCK
from workspace import ROOT

LLAMA, GEMMA2, GRANITE = {"model_type": "llama"}, {"model_type": "gemma2"}, {"model_type": "granite"}


def method(name: str, shape: dict, kind: str = "cpu"):
    return efforts.method_for(efforts.read(name), shape, efforts.multiple(kind, (), 8960), equal=False)


@pytest.mark.parametrize("name", efforts.EFFORTS)
@pytest.mark.parametrize("gpus", [0, 1])
def test_an_effort_is_a_valid_configuration_with_its_own_method(name, gpus):
    kind = ("cpu", "gpu")[gpus]
    own, notes = method(name, LLAMA, kind)
    given = {"train": 10**6, "test": 10**6, "context": 4096, "gpus": gpus, "effort": name}
    config = validated(made([20, 40], methods={name: own}, **given))
    assert config.method(name) == own and not notes and config.table("table1").methods == [name]
    calibration = config.calibrations["own"]
    most = efforts.read(name).tokens[kind]
    assert most - 512 < calibration.samples * calibration.sequence_length <= most
    assert own.round_to == (128 if gpus else 32)
    tried = {"cpu": 2048, "gpu": 32768}[kind] if name == "thorough" else 64 * calibration.sequence_length
    assert calibration.probed * calibration.sequence_length == tried
    assert calibration.objectives == ([own.options["objective"]] if own.score == "utility" else [])


@pytest.mark.parametrize(
    ("kind", "types", "width", "expected"),
    [
        ("cpu", [], 8960, 32),
        ("gpu", ["q8_0"], 8960, 128),
        ("gpu", ["q8_0", "q4_k_m"], 8960, 256),
        ("cpu", ["f16", "q4_k_m"], 4864, 256),
        ("cpu", ["q4_k_m"], 1536, 32),  # six blocks: a sparsity could not be met
    ],
)
def test_widths_are_whole_blocks_of_the_files_that_are_asked_for(kind, types, width, expected):
    assert efforts.multiple(kind, [BLOCK[each] for each in types], width) == expected


def test_more_tokens_ask_more_questions_for_them():
    usual, more, fewer = (efforts.read("standard", tokens) for tokens in (None, 150_000, 500))
    assert (more.tokens, more.training_questions) == ({"cpu": 150_000, "gpu": 150_000}, 7500)
    assert (fewer.tokens, fewer.training_questions) == ({"cpu": 500, "gpu": 500}, usual.training_questions)
    assert more.method == usual.method


@pytest.mark.parametrize(
    ("effort", "width", "expected"),
    [
        ("quick", 8960, {"cpu": 8192, "gpu": 131_072}),
        ("standard", 1536, {"cpu": 20_480, "gpu": 262_144}),
        ("standard", 8960, {"cpu": 112_000, "gpu": 262_144}),  # of five samples one is held out
        ("thorough", 28_672, {"cpu": 358_400, "gpu": 524_288}),
    ],
)
def test_the_fit_of_a_wide_layer_has_ten_tokens_a_column(effort, width, expected):
    assert efforts.read(effort, None, width).tokens == expected
    assert efforts.read(effort, 999, width) == efforts.read(effort, 999)


@pytest.mark.parametrize(("there", "samples"), [(32, 218), (16, 40)])
@pytest.mark.parametrize("methods", [(), ("wanda",)])
def test_more_tokens_are_taken_where_the_memory_holds_them(tmp_path, monkeypatch, there, samples, methods):
    """A tenth of a gigabyte a sample; none where nothing is reconstructed."""

    def needs(folder, dtype, own, on_gpu, methods):
        refit = any(each.compensate.startswith("ridge") for each in methods)
        return efforts.Needs(refit * own["samples"] / 10, 0)

    monkeypatch.setattr(efforts, "needs", needs)
    monkeypatch.setattr(ready.memory, "physical", lambda: there * 1e9)
    request = Request("m", out=tmp_path, effort="standard", methods=methods)
    about = replace(known(10**6, 10**6, context=4096), request=request)
    found = ready.with_methods(about, LLAMA, 8960)
    assert configuration.calibration(found)["samples"] == (40 if methods else samples)
    assert any("fewer than 10 per column" in note for note in found.notes) == (not methods and samples == 40)


def test_another_effort_is_refused_with_those_there_are():
    with pytest.raises(InputError, match="--effort best: no such effort; there are: quick, standard, thorough"):
        efforts.read("best")


def test_recovery_is_the_efforts_unless_something_else_is_asked_for():
    def applied(**asked):
        found = with_effort(Request("m", **asked))
        return found.recover, found.steps

    assert applied(effort="thorough") == ("distill", None) and applied() == applied(effort="quick") == (None, None)
    assert applied(effort="thorough", steps=7) == ("distill", 7)
    assert applied(effort="thorough", recover="lora") == ("lora", None)
    assert applied(effort="thorough", methods=["wanda"]) == (None, None)


def test_sizes_of_the_vocabulary_are_methods_that_a_budget_compares():
    folder, wanda = ROOT / "resources/tiny-reasoner", {"wanda": DEFAULT.method("wanda")}
    found, said = efforts.with_vocabularies(wanda, ["62.5%", None, 400], folder)
    sizes = {"wanda_vocabulary_62_5pct": "62.5%", "wanda": None, "wanda_vocabulary_400": 400}
    assert {name: own.vocabulary for name, own in found.items()} == sizes
    assert said.startswith("Pruned models keep 800 or all or 400 tokens. Texts are compared in bits per byte")
    least = dict.fromkeys(found, 0) | {"wanda": 7}
    config = validated(made(least, methods=found, vocabulary="62.5%,all,400", budget=["parameters=90%"]))
    assert config.table("table1").at == least and config.tasks["own"].per == "byte"
    [alone], said = efforts.with_vocabularies(wanda, [400], folder)
    assert alone == "wanda" and said.startswith("Pruned models keep 400 tokens.")
    with pytest.raises(InputError, match="^--vocabulary 90: 257 tokens of .*tiny-reasoner always stay"):
        efforts.with_vocabularies(wanda, [None, 90], folder)


def test_methods_to_compare_may_be_scores_of_installed_packages(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for path, content in {
        "loud.py": "def score(layer):\n    return layer['act_abs_sum']\n",
        "loud-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: loud\nVersion: 1\n",
        "loud-1.dist-info/entry_points.txt": "[pruning.scores]\nloud = loud\n",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(content)
    request = Request("m", out=tmp_path, methods=["wanda", "loud"])
    found = ready.with_methods(replace(known(), request=request), LLAMA, 64)
    assert found.compared == {"wanda": DEFAULT.method("wanda"), "loud": Method(score="loud")}
    assert build(found, [30])["methods"]["loud"]["score"] == "loud"


@pytest.mark.parametrize(("tokens", "tied", "said"), [(151_936, True, 28), (151_936, False, 55), (99_999, False, 0)])
def test_a_large_vocabulary_is_said_to_be_large(tmp_path, tokens, tied, said):
    """Of Qwen2.5-0.5B's width; not where it cannot be cut."""
    stock = SimpleNamespace(vocab_size=tokens, hidden_size=896, tie_word_embeddings=tied)
    expected = [
        f"{said}% of the parameters are those of {tokens:,} tokens, few of which a task needs: try --vocabulary 30%."
    ]
    assert efforts.large_vocabulary(stock, 494_032_768, ROOT / "resources/tiny-reasoner") == (expected if said else [])
    assert bool(efforts.large_vocabulary(stock, 2 * 494_032_768, ROOT / "resources/tiny-reasoner")) == bool(said)
    assert efforts.large_vocabulary(stock, 10 * 494_032_768, ROOT / "resources/tiny-reasoner") == []
    (tmp_path / "config.json").write_text('{"vocab_size": 151936}')
    assert efforts.large_vocabulary(stock, 494_032_768, tmp_path) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"effort": "quick"}, 2),  # sentences; `standard` may help
        ({"own": Own(50, {})}, 1),  # too few were right
        ({"own": Own(800, {"train": 20480})}, 0),
        ({"answers": None}, 0),  # nothing says what is an answer
        ({"methods": ["wanda"]}, 0),
    ],
)
def test_a_vocabulary_of_others_words_is_said_to_be_that(more, said):
    smaller = {"m": DEFAULT.method("wanda").model_copy(update={"vocabulary": 400})}
    found = "".join(right_answers.of_others(known(**{"methods": smaller, "answers": ONE} | more)))
    assert found.startswith("--vocabulary keeps the tokens of your data's own answers") == (said > 0)
    assert ("`standard` keeps those of the model's own" in found) == (said > 1)


SCALED = "{} normalises or scales what its layers add"


@pytest.mark.parametrize(
    ("shape", "scheme"),
    [(LLAMA, None), (GRANITE, None), (GEMMA2, "gemma2"), (GRANITE | {"residual_multiplier": 0.22}, "granite")],
)
@pytest.mark.parametrize("name", efforts.EFFORTS)
def test_where_the_residual_stream_is_scaled_each_layer_is_reconstructed_alone(name, shape, scheme):
    own, notes = method(name, shape)
    expected = "ridge_sequential" if scheme else efforts.read(name).method.compensate
    assert own.compensate == expected and bool(notes) == bool(scheme)
    assert all(note.startswith(SCALED.format(scheme)) for note in notes)


SHORT = "weight reconstruction takes 34.4 GB of memory, 16.0 GB are there"


@pytest.mark.parametrize(
    ("options", "obs", "utility", "message"),
    [
        ({"effort": "thorough"}, (16, 9), (16, 9), None),
        ({"effort": "thorough"}, (34.4, 9), (16, 9), f"--effort thorough: {SHORT}: use --effort quick"),
        ({"effort": "standard"}, (34.4, 9), (17, 9), f"--effort standard: {SHORT}: use --methods cfsp"),
        ({"effort": "standard"}, (16, 9.5), (16, 9), "takes 9.5 GB of disk, 9.0 GB are there: use --effort quick"),
        ({"methods": ["attention_obs"]}, (34.4, 9), (16, 9), f"--methods attention_obs: {SHORT}: use --methods cfsp"),
        ({"tokens": 10**6}, (34.4, 9), (16, 9), f"--tokens 1000000: {SHORT}: lower it, or leave it out"),
    ],
)
def test_what_does_not_fit_the_machine_names_the_largest_that_does(
    tmp_path, monkeypatch, options, obs, utility, message
):
    """obs, utility: gigabytes of memory and disk that a method of this score takes; there are 16 and 9. The first is of
    a million tokens, if they are asked for; fewer take a thousandth."""
    taken = {"obs": efforts.Needs(*obs), "utility": efforts.Needs(*utility)}

    def needs(folder, dtype, cut, on_gpus, methods):
        found, few = taken[next(iter(methods)).score], cut["samples"] * cut["sequence_length"] < 500_000
        return efforts.Needs(*(each / 1000 for each in found)) if few and "tokens" in options else found

    monkeypatch.setattr(efforts, "needs", needs)
    monkeypatch.setattr(ready.memory, "physical", lambda: 16e9)
    monkeypatch.setattr(ready.shutil, "disk_usage", lambda path: SimpleNamespace(free=9e9))
    about = replace(known(own=Own(800)), request=Request("m", out=tmp_path, **options))
    with pytest.raises(InputError, match=re.escape(message)) if message else nullcontext():
        found = ready.with_methods(about, LLAMA, 64)
        assert list(found.methods) == ["thorough"] and found.model["m"]["memory_gb"] == 16


@pytest.mark.parametrize(
    ("options", "width", "multiple"),
    [({}, 512, 32), ({}, 511, 1), ({"against": ["q8_0"]}, 64, 32)],
)
def test_methods_to_compare_have_widths_that_are_fast_where_layers_have_many(
    tmp_path, monkeypatch, options, width, multiple
):
    monkeypatch.setattr(efforts, "needs", lambda *_, methods: efforts.Needs(0, 0))
    about = replace(known(), request=Request("m", out=tmp_path, methods=["wanda"], **options))
    found = ready.with_methods(about, LLAMA, width).methods["wanda"]
    assert (found.round_to if found else DEFAULT.method("wanda").round_to) == multiple


@pytest.mark.parametrize("options", [{}, {"methods": ["wanda"]}])
def test_files_of_one_width_for_all_layers_have_whole_blocks(tmp_path, monkeypatch, options):
    monkeypatch.setattr(efforts, "needs", lambda *_, methods: efforts.Needs(0, 0))
    about = replace(known(), request=Request("m", out=tmp_path, against=["q8_0"], **options))
    found = ready.with_methods(about, {"model_type": "qwen3"}, 1024)
    [own] = found.methods.values()
    assert any("llama.cpp reads no others in qwen3" in note for note in found.notes) == (not options)
    assert (own.allocate, own.round_to, own.export) == ("uniform", 32, "pad") and not own.uneven
    assert efforts.unread({"m": own}, {"model_type": "qwen3"}) == []


@pytest.mark.parametrize(
    ("gpus", "needed", "sparsity", "threads"),
    [(0, 7.9, "20,40", 2), (0, 8.1, "20,40", 6), (0, 7.9, "40", 6), (1, 8.1, "40", 2)],
)
def test_a_job_has_all_cores_where_no_two_would_run(tmp_path, monkeypatch, gpus, needed, sparsity, threads):
    """Two fit 16 GB, and two models are pruned. On a GPU the machine's memory is not what jobs are run by."""
    monkeypatch.setattr(efforts, "needs", lambda *_, methods: efforts.Needs(needed, 0))
    monkeypatch.setattr(ready.memory, "physical", lambda: 16e9)
    about = replace(known(gpus=gpus), request=Request("m", out=tmp_path, effort="standard", cores=6, sparsity=sparsity))
    assert ready.with_methods(about, LLAMA, 64).model["m"]["threads"] == threads


def test_reconstruction_takes_what_the_documents_say_of_a_7b_model():
    """docs/memory.md: 53.6 GB on a CPU, of which 15.2 are weights; 27.0 GB of a GPU's machine; 80 GB of matrices."""
    cut = {"samples": 128, "micro_batch": 1, "sequence_length": 2048}
    folder = ROOT / "resources/architectures/qwen2_5-7b"
    standard = [DEFAULT.method("attention_obs")]
    found = [efforts.needs(folder, "bfloat16", cut, on_gpus, standard) for on_gpus in (False, True)]
    assert [each.memory for each in found] == pytest.approx([53.6, 27.0], abs=0.1)
    assert found[0].disk == pytest.approx(28 * (8 * 18944**2 + 4 * 3584**2) / 1e9)
    assert efforts.needs(folder, "bfloat16", cut, False, [DEFAULT.method("corrective_taylor_fo")]).disk == 0
    assert efforts.needs(folder, "bfloat16", cut, False, [DEFAULT.method("wanda")]) == (0, 0)


UNEVEN = "attention_obs: layers of different widths, which llama.cpp does not read"


@pytest.mark.parametrize(
    ("methods", "family", "width", "sparsity", "said"),
    [
        (["attention_obs"], "llama", 1536, 20, None),  # 26 of 32 sequences of 512: 13,312 tokens for 1,229 columns
        (["attention_obs"], "llama", 1536, 0, "attention_obs: 13,312 calibration tokens fit 1,536 columns per layer"),
        (["wanda", "rku"], "llama", 9000, 20, None),
        (["attention_obs", "wanda"], "qwen3", 64, 20, UNEVEN),
        (["attention_obs"], "qwen2", 64, 20, None),  # `deci` has them
        (["attention_obs"], "lfm2", 64, 20, None),  # has no file of any widths
        (["wanda"], "qwen3", 64, 20, None),
    ],
)
def test_few_tokens_and_files_that_cannot_be_made_are_said_beforehand(methods, family, width, sparsity, said):
    asked = {"sparsity": str(sparsity)} if sparsity else {"budget": ["bytes=9MB"]}
    about = known(32 * 512, methods=methods, **asked)
    named = efforts.definitions(about.methods)
    found = ready.too_few_tokens(about, width) + efforts.unread(named, {"model_type": family})
    assert len(found) == (said is not None) and (not said or found[0].startswith(said))


@pytest.mark.parametrize(("data", "answers", "said"), [(10**6, 1000, True), (1000, 20480, False)])
def test_tokens_are_few_or_not_as_those_that_models_are_calibrated_on(data, answers, said):
    """Own answers, not the data's own text."""
    own = Own(800, {"train": answers, "validation": 9000, "test": 9000})
    about = replace(known(data, own=own, methods=["attention_obs"]), request=Request("m", sparsity="20"))
    assert bool(ready.too_few_tokens(about, 1536)) == said


INSTEAD = {"attention_obs": "sequential_obs", "corrective_wanda": "sequential_wanda", "sequential_obs": None}
INSTEAD |= {"best": "`compensate: ridge_sequential`", "ridge_obs": None}


@pytest.mark.parametrize(("method", "instead"), INSTEAD.items())
def test_what_a_family_cannot_do_is_said_before_any_job(tmp_path, method, instead):
    tiny.save(tiny.of_family("gemma2"), tmp_path / "m")
    for split in own_data.PARTS:
        (tmp_path / "own-data").mkdir(exist_ok=True)
        (tmp_path / f"own-data/{split}.jsonl").touch()
    config = validated(made(methods=[method], path=tmp_path / "m") | {"data_folder": str(tmp_path)})
    said = (
        f"^methods.{method}.compensate: ridge_.*: model type 'gemma2' normalises or scales .* solve for: use {instead}$"
    )
    with pytest.raises(InputError, match=said) if instead else nullcontext():
        preflight.check(config)

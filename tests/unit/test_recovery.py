"""LoRA recovery: what is trained, on which tokens, and going on after a kill."""

import json
import os
import shutil
import weakref
from functools import partial

import pandas as pd
import pytest
import recover as recover_stage
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

import tiny
from pruning.core import artifacts, chain
from pruning.core.errors import InputError
from pruning.evaluation import dense, recovery
from pruning.methods import variants
from pruning.methods.compact import Pruning
from pruning.models import head, loading
from pruning.models.checkpoint import Checkpoint
from pruning.models.checkpointing import checkpoint_gradients
from pruning.models.pruned import from_pruned

SETTINGS = {"steps": 6, "rank": 2, "alpha": 4, "targets": ["q_proj", "down_proj"], "learning_rate": 0.01, "seed": 0}
SETTINGS |= {"batch_size": 2, "sequence_length": 32, "checkpoint_every": 4, "micro_batch": None, "dtype": "float32"}
SETTINGS |= {"gradient_checkpointing": False, "prompt": "Q: {question}\n", "completion": "A: {answer}"}


@pytest.fixture
def pruned(tmp_path):
    """A compact model of widths 5 and 9, and its tuning text."""
    base = tiny.save(tiny.qwen2(), tmp_path / "base")
    tiny.written(Pruning(Checkpoint(base), tiny.keeps(5, 9)), tmp_path / "model")
    (tmp_path / "its.json").write_text("{}")
    frame = pd.DataFrame({"question": [f"{n}+{n}" for n in range(9)], "answer": [str(2 * n) for n in range(9)]})
    artifacts.write_parquet(tmp_path / "data.parquet", frame, "dataset", {})
    return tmp_path


def run(folder, name="adapter", **changes):
    files = (folder / "model", folder / "its.json", folder / "data.parquet")
    recover_stage.recover({**SETTINGS, **changes}, *files, folder / name)
    return folder / name


def test_only_answers_are_learned_and_batches_depend_on_the_step_alone():
    sequences = [([1, 2, 3], [False, True, True]), ([4, 5], [False, True])]
    chosen = recovery.drawn(2, step=3, size=4, seed=0)
    assert chosen == recovery.drawn(2, step=3, size=4, seed=0) != recovery.drawn(2, step=4, size=4, seed=0)
    assert recovery.drawn(9, step=3, size=9, seed=0) != recovery.drawn(9, step=3, size=9, seed=1)
    ids, labels = recovery.batch([sequences[number] for number in chosen], pad=0)
    for row, label in zip(ids.tolist(), labels.tolist(), strict=True):
        assert (row, label) in [([1, 2, 3], [-100, 2, 3]), ([4, 5, 0], [-100, 5, -100]), ([4, 5], [-100, 5])]


def test_what_adapters_add_counts_alpha_over_rank_and_their_targets_are_written_in_order(tmp_path):
    targets = ["q_proj", "v_proj", "up_proj", "o_proj", "k_proj", "gate_proj", "down_proj"]
    tuned = recovery.with_adapters(tiny.qwen2(), {**SETTINGS, "targets": targets})
    scales = [each.scaling for each in tuned.modules() if isinstance(each, LoraLayer)]
    assert len(scales) == 2 * len(targets) and all(own == {"default": 4 / 2} for own in scales)
    recovery.save(tmp_path, tuned)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == sorted(targets)


def told(teacher, ids):
    """What a teacher says of these tokens; None where there is none."""
    return teacher and (partial(head.logits_of, teacher), head.hidden_states(teacher, ids).detach())


@pytest.mark.parametrize("distilled", [False, True])
def test_the_loss_is_the_mean_over_labelled_tokens(distilled):
    """The cross-entropy, or the divergence from the teacher's next tokens."""
    model, teacher = tiny.qwen2(), tiny.qwen2(seed=1) if distilled else None
    ids, labels = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[-100, -100, 7, 8]])
    log_q = model(ids).logits[0].double().log_softmax(-1)
    if distilled:
        log_p = teacher(ids).logits[0].double().log_softmax(-1)
        expected = (log_p.exp() * (log_p - log_q))[1:3].sum().item() / 2
    else:
        expected = -(log_q[1, 7] + log_q[2, 8]).item() / 2
    tuned = recovery.with_adapters(model, SETTINGS)
    assert recovery.backward(tuned, ids, labels, told=told(teacher, ids)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("distilled", [False, True])
@pytest.mark.parametrize(("rows", "checkpointed", "limit"), [(1, False, None), (2, False, 300), (None, True, 300)])
def test_gradients_are_those_of_the_whole_batch_at_once(monkeypatch, rows, checkpointed, limit, distilled):
    """By autograd; in micro-batches, in pieces of the logits, layers computed again; documents of unequal lengths."""
    ids = torch.randint(1, 257, (3, 12), generator=torch.Generator().manual_seed(0))
    labels, teacher = ids.clone(), tiny.qwen2(seed=1) if distilled else None
    labels[:, :3], labels[1, 5:] = -100, -100

    def autograds(tuned) -> float:
        found, goals = (model(ids).logits[:, :-1].log_softmax(-1) for model in (tuned, teacher or tuned))
        if teacher:
            losses = (goals.detach().exp() * (goals.detach() - found)).sum(-1)
        else:
            losses = -found.gather(2, labels[:, 1:, None].clamp_min(0))[..., 0]
        loss = losses[labels[:, 1:] != -100].mean()
        loss.backward()
        return loss.item()

    def gradients(rows: int | None = None, checkpointed: bool = False, plain: bool = False) -> tuple[float, dict]:
        tuned = recovery.with_adapters(tiny.qwen2(), SETTINGS)
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:  # zero at the start, where no gradient reaches the other half
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
        if checkpointed:
            checkpoint_gradients(tuned.get_base_model())
        value = autograds(tuned) if plain else recovery.backward(tuned, ids, labels, rows, told(teacher, ids))
        return value, {name: p.grad for name, p in tuned.named_parameters() if p.requires_grad}

    value, whole = gradients(plain=True)
    if limit:
        monkeypatch.setattr(head, "LOGITS", limit)
        monkeypatch.setattr(head, "IN_CACHE", limit // 3)
    again, parts = gradients(rows, checkpointed)
    assert again == pytest.approx(value, rel=1e-5)
    assert len(whole) == 8 and all(grad.abs().max() > 0 for grad in whole.values())
    for name, grad in whole.items():
        torch.testing.assert_close(parts[name], grad, rtol=1e-3, atol=1e-6)


def test_documents_go_through_the_model_without_what_pads_others(monkeypatch):
    widths, hidden_states = [], head.hidden_states
    monkeypatch.setattr(head, "hidden_states", lambda model, ids: widths.append(ids.shape) or hidden_states(model, ids))
    ids = torch.randint(1, 257, (3, 12))
    labels = ids.clone()
    labels[0, 7:], labels[1, :3] = -100, -100
    labels[2, 1::2] = -100  # ends with an answer, which a question interrupts
    labels[2, 9:] = -100
    recovery.backward(recovery.with_adapters(tiny.qwen2(), SETTINGS), ids, labels, 1)
    assert widths == [(1, 7), (1, 12), (1, 9)]


def test_an_adapter_is_made_that_loads_and_lowers_the_loss(pruned):
    adapter = run(pruned, steps=30)
    log = pd.read_csv(adapter / "training_log.csv")
    assert len(log) == 30
    assert log["loss"].tail(5).mean() < log["loss"].head(5).mean() - 0.1
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["r"] == 2 and config["target_modules"] == ["down_proj", "q_proj"]
    base, _ = loading.load(pruned / "model", "float32")
    before = base(torch.tensor([[5, 6, 7]])).logits
    tuned = PeftModel.from_pretrained(base, adapter)
    assert not torch.allclose(tuned(torch.tensor([[5, 6, 7]])).logits, before)
    assert not list(pruned.glob(".adapter.*"))  # no checkpoint left


def test_after_a_kill_it_goes_on_from_the_last_checkpoint_to_the_same_adapter(pruned, monkeypatch):
    whole, steps, loss = run(pruned, "whole"), [], recovery.backward

    def dying(*arguments):
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(recovery, "backward", dying)
    with pytest.raises(KeyboardInterrupt):
        run(pruned)
    assert not (pruned / "adapter").exists()
    resumed = run(pruned)
    assert len(steps) == 6 + 2  # the checkpoint was after step 4
    for name in ("adapter_model.safetensors", "training_log.csv"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def killed(folder, monkeypatch, name="adapter", **changes):
    """The checkpoint of a training that is killed at its end."""
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(folder, name, **changes)
    (found,) = folder.glob(f".{name}.*")
    return found


def flipped(path):
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)


CHECKPOINTS = {
    "a sibling's": lambda own, other: shutil.copy(other, own),
    "half": lambda own, other: os.truncate(own, 500),
    "nothing but the digest": lambda own, other: os.truncate(own, recovery.DIGEST),
    "one bit": lambda own, other: flipped(own),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_is_not_its_own_is_not_gone_on_from(pruned, monkeypatch, capsys, name):
    whole = run(pruned, "whole")
    checkpoint = killed(pruned, monkeypatch)
    CHECKPOINTS[name](checkpoint, killed(pruned, monkeypatch, "sibling", learning_rate=0.02))
    resumed = run(pruned)
    assert f"{checkpoint}: not a whole checkpoint of this training, which starts anew" in capsys.readouterr().out
    for file in ("adapter_model.safetensors", "training_log.csv"):
        assert (resumed / file).read_bytes() == (whole / file).read_bytes()
    assert not list(pruned.glob(".adapter.*"))


def test_nor_is_one_of_other_code(pruned, monkeypatch, capsys):
    checkpoint = killed(pruned, monkeypatch)
    monkeypatch.setattr(chain, "lineage", "0123456789")
    monkeypatch.setattr(chain, "parents", {None})
    run(pruned)
    assert "resumed" not in capsys.readouterr().out and not checkpoint.exists()


def without_a_tensor(path):
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path)


def with_config(**changes):
    def change(adapter, other):
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


ADAPTERS = {
    "one bit": lambda own, other: flipped(own / "adapter_model.safetensors"),
    "a tensor less": lambda own, other: without_a_tensor(own / "adapter_model.safetensors"),
    "a target less": with_config(target_modules=["q_proj"]),
    "another alpha": with_config(lora_alpha=400),
    "a sibling's weights": lambda own, other: shutil.copy(other / "adapter_model.safetensors", own),
    "a sibling's log": lambda own, other: shutil.copy(other / "training_log.csv", own),
    "all of a sibling's": lambda own, other: shutil.copytree(other, own, dirs_exist_ok=True),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_that_is_not_as_it_was_made_is_refused(pruned, name):
    """By whatever puts it on a model: evaluation, cases, speed (`load`), an export, another round (`from_pruned`)."""
    adapter, other = run(pruned, "results/own"), run(pruned, "results/its", learning_rate=0.02)
    parts = variants.Parts(pruned / "model", pruned / "its.json", adapter=adapter)
    before = parts.identity()
    parts.load("float32", "cpu")
    assert parts.identity() == before  # what is noted of the files changes nothing
    ADAPTERS[name](adapter, other)
    words = "is not the file that .*recovery.json records|recovery.json: is results/its/recovery.json, put in another's"
    with pytest.raises(InputError, match=words):
        parts.load("float32", "cpu")
    (pruned / "merged").mkdir()
    with pytest.raises(InputError, match=words):
        from_pruned(pruned / "model", adapter, pruned / "merged")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ["q_proj", "fc1"]}, r"targets: no linear modules \['fc1'\] in the model; it has \['down_proj'"),
        ({"sequence_length": 3}, "tunings: sequence_length: 3: no text's completion begins within it: raise"),
    ],
)
def test_settings_that_cannot_be_are_named(pruned, changes, message):
    with pytest.raises(InputError, match=message):
        run(pruned, **changes)


def test_texts_cut_before_their_answer_are_left_out(capsys):
    sequences = [([1, 2, 3], [False, False, True]), ([1, 2, 3], [False] * 3), ([1, 2], [True, False])]
    assert recovery.answered(sequences, 3) == sequences[:1]  # nothing predicts a first token
    assert "2 of 3 texts left out: their completion begins after 3 tokens" in capsys.readouterr().out


def test_a_training_that_diverges_makes_no_adapter(pruned, monkeypatch):
    loss = recovery.backward
    monkeypatch.setattr(recovery, "backward", lambda *a: loss(*a) * float("inf"))
    with pytest.raises(InputError, match=r"learning_rate: 0\.01: the loss is inf at step 1: lower it"):
        run(pruned)
    assert not (pruned / "adapter").exists()


def test_a_teacher_is_asked_once_a_text_and_let_go(tmp_path, monkeypatch):
    """Its head, and what that gets of each text that a step draws, whatever is beside it in a batch."""
    network, loaded = tiny.qwen2(seed=1), loading.load
    place, sequences = tiny.save(network, tmp_path), [(list(range(1, 6 - n)), [True] * (5 - n)) for n in range(5)]
    models = []
    monkeypatch.setattr(loading, "load", lambda *a: (models.append(weakref.ref((own := loaded(*a))[0])), own)[1])
    settings = {"dtype": "float32", "batch_size": 2}
    parameters, hidden = recovery.taught(place, place, sequences, {4, 1, 3}, settings)
    assert [own() for own in models] == [None] and set(hidden) == {1, 3, 4}
    for number, own in hidden.items():
        expected = head.hidden_states(network, torch.tensor([sequences[number][0]]))[0]
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)
    lesson = recovery.Taught(dense.teacher(tiny.qwen2(), parameters), hidden)
    teacher, wanted = lesson.of([1, 3, 1])
    assert wanted.shape == (3, 4, 32) and (wanted[1, 2:] == 0).all()
    torch.testing.assert_close(teacher(wanted)[1, :2], network(torch.tensor([[1, 2]])).logits[0], rtol=1e-4, atol=1e-5)


def test_an_adapter_that_is_distilled_comes_nearer_to_the_dense_model(pruned):
    content = {"files": artifacts.directory_hashes(pruned / "base")}
    artifacts.write_json(pruned / "base/manifest.json", content, "base", {})
    files = [pruned / name for name in ("model", "its.json", "data.parquet", "distilled")]
    recover_stage.recover({**SETTINGS, "steps": 30}, *files, teacher=pruned / "base")
    log = pd.read_csv(pruned / "distilled/training_log.csv")
    assert log["loss"][25:].mean() < 0.7 * log["loss"][:5].mean()
    plain = artifacts.read_json(run(pruned, steps=30) / "recovery.json", "recovery")
    assert artifacts.read_json(pruned / "distilled/recovery.json", "recovery")["files"] != plain["files"]

"""Every supported family on a tiny random model: its own loss, residual stream and matrices.

That what is cut is what is silent is in test_structures.py.
"""

import re
from functools import partial

import pytest
import torch
from transformers import CONFIG_MAPPING, PhiConfig, PhiForCausalLM

import tiny
from pruning.calibration.gradients import Calibration
from pruning.calibration.prepare import as_batches
from pruning.core import layer_files
from pruning.core.errors import InputError
from pruning.evaluation import dense
from pruning.models import families, head
from pruning.models.checkpoint import Checkpoint
from pruning.models.checkpointing import checkpoint_gradients
from pruning.models.families import DENSE, FAMILIES, family_of
from pruning.models.structures import STRUCTURES
from tiny import TEXT

families_of_models = pytest.mark.parametrize("family", DENSE)


SITES = [(family, "ffn") for family in DENSE] + [(family, "kv_groups") for family in DENSE if FAMILIES[family].qkv]


@pytest.mark.parametrize(("family", "structure"), SITES)
def test_the_cross_entropy_and_its_gradients_are_the_models_own(family, structure):
    """transformers' loss with labels, its gradient taken with respect to every site's input."""
    model = tiny.of_family(family)
    inputs: list[torch.Tensor] = []

    def begin(_, args):
        inputs.append(args[0].detach().requires_grad_(True) if not inputs else args[0])
        return (inputs[-1],)

    hooks = [site.register_forward_pre_hook(begin) for site in STRUCTURES[structure].sites(model)]
    ids = torch.tensor([TEXT])
    own = torch.autograd.grad(model(ids, labels=ids).loss, inputs)
    for hook in hooks:
        hook.remove()
    with Calibration(model, ("ce",), structure) as run:
        run.run(as_batches([torch.tensor([TEXT])]))
    for sums, a, g in zip(run.sums, inputs, own, strict=True):
        expected = (a * g)[0].abs().sum(0).detach().double()
        torch.testing.assert_close(sums["ce_abs_sum"], expected, rtol=1e-3, atol=1e-5 * expected.max().item())
        torch.testing.assert_close(sums["act_sq_sum"], a[0].detach().double().square().sum(0), rtol=1e-5, atol=1e-9)


@families_of_models
@pytest.mark.parametrize("pieces", [1, 4, 99])
def test_losses_in_pieces_and_their_gradients_are_those_of_all_logits(monkeypatch, family, pieces):
    model, ids = tiny.of_family(family), torch.tensor([TEXT, TEXT[::-1]])
    losses_of = partial(torch.nn.functional.cross_entropy, target=ids[:, 1:], reduction="none")
    expected = losses_of(model(ids).logits[:, :-1].mT)
    monkeypatch.setattr(head, "LOGITS", 257 * 2 * len(TEXT) // pieces)
    hidden = head.hidden_states(model, ids).requires_grad_(True)
    own = model(inputs_embeds=model.get_input_embeddings()(ids)).logits  # that the model is whole again afterwards
    losses = head.token_losses(model, hidden, ids)
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    weights = torch.linspace(0, 1, losses.numel()).view_as(losses)
    (found,) = torch.autograd.grad((losses * weights).sum(), hidden)
    (wanted,) = torch.autograd.grad((losses_of(head.logits_of(model, hidden)[:, :-1].mT) * weights).sum(), hidden)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model(ids).logits, own)
    with torch.no_grad():
        torch.testing.assert_close(head.token_losses(model, hidden, ids), expected, rtol=1e-5, atol=1e-5)


@families_of_models
def test_the_dense_models_answers_are_made_again_beside_another(tmp_path, family):
    """From its head and what that gets, as they are kept; and the other model is whole afterwards."""
    model, other, ids = tiny.of_family(family, seed=1), tiny.of_family(family), torch.tensor([TEXT, TEXT[::-1]])
    expected, own = other(ids).logits, model(ids).logits
    states = dense.states(other, ids, batch_size=1)
    layer_files.write(tmp_path / "states.json", dense.KIND, {}, states, {"model": ""})
    kept = dense.Dense(tmp_path / "states.json")
    found = kept.teacher(model)(torch.cat([kept.hidden(0), kept.hidden(1)]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(model(ids).logits, own) and (own - expected).abs().max() > 0.01


def test_only_a_piece_of_the_logits_is_held_at_once(monkeypatch):
    model, ids, sizes = tiny.qwen2(), torch.tensor([TEXT]), []
    monkeypatch.setattr(head, "LOGITS", 257 * 3)
    model.lm_head.register_forward_hook(lambda *a: sizes.append(a[-1].shape[1]))
    head.token_losses(model, head.hidden_states(model, ids).requires_grad_(True), ids).sum().backward()
    assert sizes == [3, 3, 3, 3] * 2  # and once more for the gradients


@families_of_models
def test_the_energy_is_before_the_final_norm(family):
    model = tiny.of_family(family)
    with Calibration(model, objectives=("energy", "energy_post")) as run:
        run.run(as_batches([torch.tensor([TEXT])]))
    with tiny.watched([families.final_norm(model)]) as [calls]:
        hidden = model.base_model(torch.tensor([TEXT]), output_hidden_states=True).hidden_states
    [(before, after)] = calls
    torch.testing.assert_close(run.before_norm.detach(), before)
    torch.testing.assert_close(hidden[-1], after)  # transformers' last hidden state is after the norm


@families_of_models
def test_a_plain_residual_stream_is_what_attention_and_ffn_put_out(family):
    """In every layer: its inputs, and the outputs of the two linear modules."""
    model, own = tiny.of_family(family), FAMILIES[family]
    for layer in families.decoder_layers(model):
        attention = own.attention_out
        if own.hybrid and not hasattr(layer, "self_attn"):
            attention = {"lfm2": "conv.out_proj", "qwen3_5_text": "linear_attn.out_proj"}[family]
        with tiny.watched([layer.get_submodule(attention), layer.get_submodule(own.ffn), layer]) as calls:
            tiny.logits(model)
        [(_, attended)], [(_, made)], [(x, out)] = calls
        changed = "normalises or scales" in families.obstacle(model.config.to_dict())
        assert torch.allclose(out, x + attended + made, atol=1e-4) != changed


@families_of_models
def test_matrices_of_the_checkpoint_are_those_of_the_model(tmp_path, family):
    """gate, up and down give the FFN's output, whatever tensors hold them."""
    model = tiny.of_family(family)
    base, layer = Checkpoint(tiny.save(model, tmp_path)), families.decoder_layers(model)[1]
    mlp, x = layer.get_submodule(families.of(model).ffn), torch.randn(5, 32)
    gate, up, down = (torch.from_numpy(base.matrix(1, projection)) for projection in ("gate", "up", "down"))
    act = getattr(mlp, "act_fn", None) or getattr(mlp, "activation_fn", torch.nn.functional.silu)
    torch.testing.assert_close((act(x @ gate.T) * (x @ up.T)) @ down.T, mlp(x), rtol=1e-4, atol=1e-5)


UNKNOWN = "it is a mixture of experts of a kind not yet tried"
UNGATED = "it is no decoder with one gated FFN in every layer"
OTHERS = {"glm4_moe": UNKNOWN, "granitemoe": UNKNOWN, "gpt2": UNGATED, "phi": UNGATED, "bert": UNGATED}
OTHERS |= {kind: f"it is a hybrid of which {why}" for kind, why in families.MISSING.items()}
OTHERS["t5"] = "it is an encoder-decoder"


@pytest.mark.parametrize("kind", OTHERS)
def test_others_are_refused_by_name(kind):
    said = f"models.m: model type '{kind}' cannot be pruned: {OTHERS[kind]}; supported: cohere"
    with pytest.raises(InputError, match=re.escape(said).replace(";", ".*;")):
        family_of(CONFIG_MAPPING[kind]().to_dict(), "models.m")


def test_dropout_and_a_layer_without_a_gated_ffn_are_refused():
    model = tiny.qwen2(attention_dropout=0.1)
    with pytest.raises(InputError, match="gradient_checkpointing needs a model without dropout"):
        checkpoint_gradients(model)
    model.model.layers[1].mlp.up_proj = torch.nn.Identity()
    with pytest.raises(InputError, match="Qwen2For.*: no linear module model.layers.1.mlp.up_proj: not a gated FFN"):
        STRUCTURES["ffn"].sites(model)


def test_a_model_without_a_type_and_a_loaded_one_of_another_family_are_refused():
    with pytest.raises(InputError, match="models.m: model type None cannot be pruned"):
        family_of({}, "models.m")
    with pytest.raises(InputError, match="PhiForCausalLM: model type 'phi' cannot be pruned"):
        Calibration(PhiForCausalLM(PhiConfig(**tiny.SHAPE, num_hidden_layers=1)))

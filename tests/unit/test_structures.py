"""What is cut is what is silent: a pruned model, in every way to one, against the dense model whose removed units put
out nothing; of every family, and of a structure that this file adds.
"""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

import tiny
from pruning.core.errors import InputError
from pruning.evaluation import recovery
from pruning.methods import masks, variants
from pruning.methods.compact import Pruning
from pruning.models import packing, remote_code
from pruning.models.checkpoint import Checkpoint
from pruning.models.families import DENSE, FAMILIES
from pruning.models.gguf import model as gguf_model
from pruning.models.loading import load
from pruning.models.pruned import from_pruned
from pruning.models.structures import kv_groups
from tiny import IDS, REAL, logits

BOTH, ONE, NONE = (1, 1), (0, 1), (0, 0)
DROPPED = {
    "the first layer's": tiny.keeps(0, 31, 48, groups=[NONE, BOTH, ONE]),
    "others'": tiny.keeps(20, 0, 0, groups=[ONE, NONE, BOTH]),
}
CUTS = {
    "uniform": tiny.keeps(20, 20),
    "uneven": tiny.keeps(7, 31),
    "one neuron": tiny.keeps(1, 48),
    "groups": tiny.keeps(20, 31, groups=[ONE, BOTH]),
    **DROPPED,
}
WITHOUT_GROUPS = ("olmo2", "phi3", "qwen3_5_text", "lfm2")


def continued(model, ids=IDS, real=REAL, **options) -> list[list[int]]:
    """Greedily, with a cache."""
    plain = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None}
    return model.generate(ids, attention_mask=real, **plain, **options)[:, ids.shape[1] :].tolist()


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def stock(folder):
    """By stock transformers, with the code beside the weights where there is some."""
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)


def dense_of(family: str, cut: str):
    """Of as many layers as the cut, where it drops some with the biases on attention's and the FFN's output that its
    family can have."""
    layers = len(CUTS[cut]["ffn"])
    model = tiny.of_family(family, layers)
    keys = [key for key in ("attention_bias", "mlp_bias") if hasattr(model.config, key) and cut in DROPPED]
    return tiny.of_family(family, layers, **dict.fromkeys(keys, True))


def pruning_of(folder, family="qwen2", cut="uneven", biased=False) -> Pruning:
    """biased: as by FLAP's compensation, but of any numbers."""
    base, keeps = Checkpoint(tiny.fetched(folder / "base", dense_of(family, cut))), CUTS[cut]
    if family in WITHOUT_GROUPS:
        keeps = {"ffn": keeps["ffn"]}
    return Pruning(base, keeps, tiny.biased(base, keeps) if biased else None, biased=biased)


def compact(folder, *which, **options):
    return tiny.written(pruning_of(folder, *which, **options), folder / "compact")


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("family", DENSE)
def test_cut_is_silent_on_disk_in_memory_and_by_the_code_that_is_written(tmp_path, family, cut):
    pruning = pruning_of(tmp_path, family, cut)
    folder, keeps = tiny.written(pruning, tmp_path / "compact"), pruning.keeps
    dense, in_memory = (load(pruning.base.directory, "float32", "cpu")[0] for _ in range(2))
    whole = logits(dense)
    silent, ours, theirs = tiny.silenced(dense, keeps), load(folder, "float32", "cpu")[0], stock(folder)
    pruning.apply(in_memory)
    put_out, said = logits(silent), continued(silent)
    assert (put_out - whole).abs().max() > 1e-3
    assert Checkpoint(folder).widths == masks.counts(keeps)["ffn"]
    assert pruning.parameters() == Checkpoint(folder).parameters == sum(p.numel() for p in in_memory.parameters())
    expected = dict(ours.named_parameters())
    assert all(torch.equal(own, expected[name]) for name, own in in_memory.named_parameters())
    assert not in_memory.training and not any(p.requires_grad for p in (*ours.parameters(), *in_memory.parameters()))
    theirs.save_pretrained(tmp_path / "again")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "again")
    again = [stock(tmp_path / "again"), load(tmp_path / "again", "float32", "cpu")[0]]
    usual = dense.config._attn_implementation
    for attention in dict.fromkeys((usual, "eager" if cut in DROPPED else usual)):
        for model in (ours, in_memory, theirs, *again):
            model.set_attn_implementation(attention)
            close(logits(model), put_out)
            assert continued(model) == said


@pytest.mark.parametrize("cut", [cut for cut in CUTS if "kv_groups" not in CUTS[cut]] + ["no FFN"])
@pytest.mark.parametrize("family", DENSE)
def test_padded_with_zeros_it_is_a_stock_model(tmp_path, family, cut):
    keeps = tiny.keeps(0, 31) if cut == "no FFN" else CUTS[cut]
    pruning = Pruning(Checkpoint(tiny.save(tiny.of_family(family), tmp_path / "base")), keeps)
    folder = tiny.written(pruning, tmp_path / "padded", export="pad")
    expected = logits(tiny.silenced(load(pruning.base.directory, "float32", "cpu")[0], keeps))
    model = AutoModelForCausalLM.from_pretrained(folder)
    tiny.save(model, tmp_path / "again")
    for each in (model, load(folder, "float32", "cpu")[0], load(tmp_path / "again", "float32", "cpu")[0]):
        close(logits(each), expected)
    assert Checkpoint(folder).widths == [max(masks.counts(keeps)["ffn"])] * 2
    config = json.loads((folder / "config.json").read_text())
    assert not {"ffn_widths", "auto_map"} & config.keys() and not (folder / remote_code.FILE).exists()


@pytest.mark.parametrize("family", DENSE)
def test_a_bias_is_carried_by_our_loader_and_by_the_code(tmp_path, family):
    """The code without its head as well: as vLLM's Transformers backend builds it, from the config alone."""
    pruning = pruning_of(tmp_path, family, biased=True)
    folder, in_memory = tiny.written(pruning, tmp_path / "compact"), load(pruning.base.directory, "float32", "cpu")[0]
    pruning.apply(in_memory)
    ours = load(folder, "float32", "cpu")[0]
    theirs, expected, weights = stock(folder), logits(ours), dict(ours.named_parameters())
    assert all(torch.equal(own, weights.pop(name)) for name, own in in_memory.named_parameters())
    assert all(not tensor.any() for tensor in weights.values()), list(weights)  # gate's and up's, with `mlp_bias`
    assert torch.equal(logits(in_memory), expected)
    assert torch.equal(logits(theirs), expected)
    assert pruning.parameters() == Checkpoint(folder).parameters
    config = AutoConfig.from_pretrained(folder)
    assert config.auto_map.keys() == {"AutoModel", "AutoModelForCausalLM"}
    with torch.device("meta"):
        bare = AutoModel.from_config(config, trust_remote_code=True)
    assert bare.is_backend_compatible() or FAMILIES[family].hybrid  # which vLLM is not asked to run
    assert not hasattr(bare, "lm_head")
    shapes = {name: tensor.shape for name, tensor in bare.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.base_model.state_dict().items()}
    loaded = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.inference_mode():
        assert torch.equal(loaded(IDS).last_hidden_state, theirs.base_model(IDS).last_hidden_state)


@pytest.mark.parametrize("cut", ["uneven", *DROPPED])
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "bias"])
def test_adapters_are_on_what_is_left_and_come_back(tmp_path, cut, biased):
    """By our own tuning, merged on loading and into a folder; and by peft, in stock transformers."""
    folder = compact(tmp_path, "qwen2", cut, biased=biased)
    settings = {"targets": ["q_proj", "o_proj", "up_proj", "down_proj"], "rank": 2, "alpha": 4, "seed": 0}
    tuned = recovery.with_adapters(load(folder, "float32", "cpu")[0], settings)
    trained = {name: own for name, own in tuned.named_parameters() if own.requires_grad}
    assert all(own.numel() for own in trained.values())
    assert any("layers.0." in name for name in trained) == (cut != "the first layer's")
    optimizer, before = torch.optim.AdamW(trained.values(), lr=0.05), logits(tuned)
    tuned.train()
    recovery.backward(tuned, IDS, IDS)
    optimizer.step()
    recovery.save_state(tmp_path / "state", [], tuned, optimizer)
    recovery.load_state(tmp_path / "state", tuned, optimizer)
    recovery.save(tmp_path / "adapter", tuned)
    (tmp_path / "merged").mkdir()
    from_pruned(folder, tmp_path / "adapter", tmp_path / "merged")
    expected = logits(tuned)
    assert (expected - before).abs().max() > 1e-3
    by_peft = PeftModel.from_pretrained(stock(folder), tmp_path / "adapter").merge_and_unload()
    on_loading = load(folder, "float32", "cpu", tmp_path / "adapter")[0]
    for model in (on_loading, load(tmp_path / "merged", "float32", "cpu")[0], stock(tmp_path / "merged"), by_peft):
        close(logits(model), expected)


@pytest.mark.parametrize("cut", DROPPED)
@pytest.mark.parametrize(
    "options",
    [{"num_beams": 3}, {"prompt_lookup_num_tokens": 3}, {"cache_implementation": "static"}],
    ids=["reordered", "cropped", "static"],
)
def test_caches_of_every_kind_hold_the_place_of_a_dropped_layer(tmp_path, cut, options):
    ids, real = (IDS[:1].repeat(1, 2), REAL[:1].repeat(1, 2)) if "prompt_lookup_num_tokens" in options else (IDS, REAL)
    folder = compact(tmp_path, "llama", cut)
    dense = tiny.silenced(dense_of("llama", cut), CUTS[cut])
    texts = [continued(model, ids, real, **options) for model in (load(folder, "float32", "cpu")[0], stock(folder))]
    assert texts == [continued(dense, ids, real, **options)] * 2


def test_in_bfloat16_it_is_the_same_packed(tmp_path):
    model = load(compact(tmp_path, "qwen2", "the first layer's"), "bfloat16", "cpu")[0]
    expected = logits(model)
    assert expected.dtype == torch.bfloat16 and torch.equal(logits(packing.pack(model)), expected)


# The code beside the weights


def test_our_loader_runs_no_code_from_a_folder(tmp_path):
    folder = compact(tmp_path)
    (folder / remote_code.FILE).write_text("raise SystemExit('ran')")
    load(folder, "float32", "cpu")


def test_it_needs_nothing_of_this_project_but_leave(tmp_path):
    """In a process without our library on its path."""
    folder = compact(tmp_path)
    program = f"""
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True)
with torch.inference_mode():
    print(model(torch.tensor({IDS.tolist()})).logits.double().sum().item(), "pruning" in sys.modules)
"""
    done = subprocess.check_output([sys.executable, "-I", "-c", program], text=True, cwd=tmp_path)
    total, ours = done.split()[-2:]
    with torch.inference_mode():
        own = load(folder, "float32", "cpu")[0](IDS).logits.double().sum().item()
    assert float(total) == pytest.approx(own, rel=1e-6) and ours == "False"
    with pytest.raises(RuntimeError, match="size mismatch|mismatched"):
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)


def test_a_later_iteration_with_equal_widths_is_a_stock_model_again(tmp_path):
    first = Checkpoint(compact(tmp_path))
    keeps = {"ffn": [np.arange(7) < 5, np.arange(31) < 5]}
    folder = tiny.written(Pruning(first, keeps), tmp_path / "second")
    config = json.loads((folder / "config.json").read_text())
    assert not {"auto_map", "ffn_widths"} & config.keys() and not (folder / remote_code.FILE).exists()
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(logits(model), logits(load(folder, "float32", "cpu")[0]))


def test_the_code_of_other_models_says_nothing_of_dropped_attention():
    own = {"model_type": "qwen2", "ffn_widths": [0, 20], "kv_groups": [1, 2]}
    assert "Dropped" not in remote_code.source(own, FAMILIES["qwen2"])
    assert "Dropped" in remote_code.source({**own, "kv_groups": [0, 2]}, FAMILIES["qwen2"])


# Variants: what is made of a mask, as other stages see it


def variant(folder, cut="uneven") -> variants.Parts:
    base = tiny.fetched(folder / "base", tiny.qwen2(len(CUTS[cut]["ffn"])))
    return variants.Parts(base, base / "manifest.json", tiny.write_mask(folder / "mask.parquet", CUTS[cut]))


@pytest.mark.parametrize("cut", CUTS)
def test_a_variant_is_counted_and_told_apart(tmp_path, cut):
    own, keeps = variant(tmp_path, cut), CUTS[cut]
    read = masks.read(own.mask, own.model)
    assert tiny.mask_frame(read).equals(tiny.mask_frame(keeps))
    widths, groups = (tuple(masks.counts(keeps).get(name, ())) for name in ("ffn", "kv_groups"))
    assert own.outline() == (tuple((name, tuple(masks.counts(keeps)[name])) for name in keeps), False, 257)
    assert replace(own, compensate="bias", evidence=own.mask).outline()[1]
    # By hand, d = 32: a neuron has 3 * 32; a group 16 rows of q, 8 of k and v with a bias each, 16 columns of o.
    neurons, group = 48 * len(widths), (16 + 8 + 8) * 33 + 16 * 32
    gone, cut_groups = neurons - sum(widths), sum(2 - count for count in groups)
    found, base = own.pruned(), Checkpoint(own.model)
    assert (base.size("ffn"), base.size("kv_groups")) == (3 * 32, group)
    assert found["parameters"] - found["parameters_kept"] == 96 * gone + group * cut_groups
    assert found["achieved_sparsity"] == pytest.approx((gone + cut_groups * group / 96) / neurons)
    with own.written("float32") as folder:
        assert json.loads((folder / "config.json").read_text()).get("kv_groups", []) == list(groups)
        assert remote_code.trusted(folder) == (len(set(widths)) > 1 or bool(groups))
        assert Checkpoint(folder).parameters == found["parameters_kept"]
        model = own.load("float32", "cpu")[0]
        assert torch.equal(logits(model), logits(load(folder, "float32", "cpu")[0]))


def test_a_dense_variant_is_whole(tmp_path):
    own = variant(tmp_path)
    dense, whole = variants.Parts(own.model, own.manifest), Checkpoint(own.model).parameters
    assert dense.outline() == ((("ffn", (48, 48)),), False, 257)
    assert dense.pruned() == {"achieved_sparsity": 0, "parameters": whole, "parameters_kept": whole}


def test_answers_of_one_variant_are_no_others(tmp_path):
    own = variant(tmp_path)
    biased = replace(own, compensate="bias", evidence=own.mask)
    keys = [each.identity() for each in (own, biased, variants.Parts(own.model, own.manifest))]
    tiny.write_mask(own.mask, CUTS["uniform"])
    keys.append(own.identity())
    assert len({str(key) for key in keys}) == 4


# Refusals


def test_what_has_no_place_for_groups_or_for_a_layer_without_an_ffn_says_so(tmp_path):
    pruning = pruning_of(tmp_path, "qwen2", "groups")
    with pytest.raises(InputError, match="as many key-value groups in every layer"):
        pruning.write(tmp_path, "pad")
    folder = tiny.written(pruning, tmp_path / "cut")
    base = Checkpoint(folder)
    with pytest.raises(InputError, match="as many key-value groups in every layer"):  # cut in an iteration before
        Pruning(base, {"ffn": [np.arange(width) < 9 for width in base.widths]}).write(tmp_path, "pad")
    with pytest.raises(InputError, match="pruned in more than FFN neurons are not converted"):
        gguf_model.write(folder, tmp_path / "x.gguf", "f16", {})
    with pytest.raises(InputError, match="pruned before"):
        Checkpoint(folder).units("kv_groups")
    base = Checkpoint(tiny.save(tiny.llama(), tmp_path / "llama"))
    folder = tiny.written(Pruning(base, tiny.keeps(0, 20)), tmp_path / "shallow")
    assert Checkpoint(folder).size("ffn") == base.size("ffn")  # of a layer that has some
    with pytest.raises(InputError, match="gguf: layers without an FFN are not converted"):
        gguf_model.write(folder, tmp_path / "x.gguf", "f16", {})


@pytest.mark.parametrize("family", WITHOUT_GROUPS)
def test_attention_that_cannot_be_cut_is_refused(family):
    with pytest.raises(InputError, match="fused projections, norms over all heads, or layers without attention"):
        kv_groups.sites(tiny.of_family(family))


def test_without_grouped_queries_there_is_nothing_to_cut():
    with pytest.raises(InputError, match="4 query and as many key-value heads"):
        kv_groups.sites(tiny.llama(num_key_value_heads=4))

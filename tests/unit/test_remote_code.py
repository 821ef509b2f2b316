"""Compact models that no stock class can hold, in stock transformers and peft: the code that is written beside them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

import tiny
from pruning.methods.compact import write_compact
from pruning.methods.compensation import Compensated
from pruning.models.checkpoint import Checkpoint
from pruning.models.families import FAMILIES
from pruning.models.loading import load
from pruning.models.structures import ffn

WIDTHS = (7, 31)
IDS = torch.tensor([[3, 77, 250, 14, 9, 120, 33, 8, 201, 5, 66, 17]])


def compact(folder, family, widths=WIDTHS, biased=False):
    base, output = Checkpoint(tiny.save(tiny.of_family(family), folder / "base")), folder / f"compact_{family}"
    rng = np.random.default_rng(0)
    keeps = [np.isin(np.arange(48), rng.permutation(48)[:width]) for width in widths]

    def compensate(layer: int) -> Compensated:
        down = base.matrix(layer, "down")
        return Compensated(down[:, keeps[layer]], rng.normal(size=len(down)).astype(np.float32), {})

    output.mkdir()
    write_compact(base, output, keeps, compensate if biased else None)
    return output


@torch.inference_mode()
def logits(model) -> torch.Tensor:
    return model.eval()(IDS).logits


def stock(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "bias"])
def test_stock_transformers_load_save_and_load_again(tmp_path, family, biased):
    folder = compact(tmp_path, family, biased=biased)
    expected = logits(load(folder, "float32", "cpu")[0])
    model = stock(folder)
    assert torch.equal(logits(model), expected)
    assert [site.in_features for site in ffn.sites(load(folder, "float32", "cpu")[0])] == list(WIDTHS)
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/modeling_pruned.py").is_file()
    assert torch.equal(logits(stock(tmp_path / "again")), expected)
    assert AutoConfig.from_pretrained(tmp_path / "again").auto_map.keys() == {"AutoModel", "AutoModelForCausalLM"}
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load(tmp_path / "again", "float32", "cpu")[0]), expected)
    assert stock(folder, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("family", FAMILIES)
def test_without_its_head_it_is_built_by_auto_model_from_the_config_alone(tmp_path, family):
    """As vLLM's Transformers backend builds it, which has a head of its own and loads the weights by their names."""
    folder = compact(tmp_path, family, biased=True)
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        bare = AutoModel.from_config(config, trust_remote_code=True)
    assert bare.is_backend_compatible() and not hasattr(bare, "lm_head")
    whole = stock(folder)
    shapes = {name: tensor.shape for name, tensor in bare.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in whole.base_model.state_dict().items()}
    loaded = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.inference_mode():
        found, expected = (model(IDS).last_hidden_state for model in (loaded, whole.eval().base_model))
    assert torch.equal(found, expected)


def test_equal_widths_with_a_bias_need_the_code_as_well(tmp_path):
    folder = compact(tmp_path, "qwen2", widths=(20, 20), biased=True)
    assert torch.equal(logits(stock(folder)), logits(load(folder, "float32", "cpu")[0]))


def test_text_is_generated_as_by_our_loader(tmp_path):
    folder = compact(tmp_path, "llama")
    greedy = {"max_new_tokens": 12, "do_sample": False}
    ours, theirs = (m.eval().generate(IDS, **greedy) for m in (load(folder, "float32", "cpu")[0], stock(folder)))
    assert ours.tolist() == theirs.tolist() and ours.shape[1] > IDS.shape[1]


def test_peft_tunes_saves_and_merges_it(tmp_path):
    folder = compact(tmp_path, "qwen2")
    tuned = get_peft_model(stock(folder), LoraConfig(r=2, target_modules=["up_proj", "down_proj"]))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    tuned.save_pretrained(tmp_path / "adapter")
    merged = PeftModel.from_pretrained(stock(folder), tmp_path / "adapter").merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(tuned))
    assert (logits(merged) - logits(stock(folder))).abs().max() > 0.01
    torch.testing.assert_close(logits(load(folder, "float32", "cpu", tmp_path / "adapter")[0]), logits(merged))


def test_our_loader_runs_no_code_from_a_folder(tmp_path):
    folder = compact(tmp_path, "qwen2")
    (folder / "modeling_pruned.py").write_text("raise SystemExit('ran')")
    load(folder, "float32", "cpu")


def test_it_needs_nothing_of_this_project(tmp_path):
    """In a process without our library on its path."""
    folder = compact(tmp_path, "qwen2")
    program = f"""
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True)
with torch.inference_mode():
    print(model(torch.tensor({IDS.tolist()})).logits.double().sum().item(), "pruning" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    total, ours = done.stdout.split()[-2:]
    assert float(total) == pytest.approx(logits(load(folder, "float32", "cpu")[0]).double().sum().item(), rel=1e-6)
    assert ours == "False"


def test_without_leave_stock_transformers_refuse_the_widths(tmp_path):
    folder = compact(tmp_path, "qwen2")
    with pytest.raises(RuntimeError, match="size mismatch|mismatched"):
        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)


def test_a_later_round_with_equal_widths_is_a_stock_model_again(tmp_path):
    folder, output = compact(tmp_path, "qwen2"), tmp_path / "second"
    output.mkdir()
    write_compact(Checkpoint(folder), output, [np.arange(7) < 5, np.arange(31) < 5])
    config = json.loads((output / "config.json").read_text())
    assert not {"auto_map", "ffn_widths"} & config.keys() and not (output / "modeling_pruned.py").exists()
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(output)), logits(load(output, "float32", "cpu")[0]))

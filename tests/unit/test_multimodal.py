"""Text parts of multimodal models: found, pruned, and put back beside a vision part that nobody has touched."""

import json
from pathlib import Path

import export as export_stage
import fetch_model as fetch_stage
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_export import SETTINGS
from transformers import AutoModelForImageTextToText

import tiny
from pruning.config import preflight
from pruning.config.default import DEFAULT
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.methods.compact import Pruning
from pruning.models import complete, loading, multimodal
from pruning.models import put_back as restored
from pruning.models.checkpoint import Checkpoint
from pruning.models.vocabulary import Tokenizer
from tiny import TEXT

IDS = torch.tensor([[token for token in TEXT if token != 250]])  # which is an image's
kinds = pytest.mark.parametrize("kind", multimodal.KINDS)


def split(folder: Path, model) -> tuple[Path, dict[str, torch.Tensor]]:
    """A base that was split, and the tensors of the whole before."""
    tiny.save(model, folder)
    (folder / "preprocessor_config.json").write_text("{}")
    tensors = load_file(folder / "model.safetensors")
    assert multimodal.split(folder) == model.config.model_type
    return folder, tensors


def put_back(folder: Path, base: Path, keeps: dict) -> Path:
    """The whole, with a text part of which this is kept."""
    made = tiny.written(Pruning(Checkpoint(base), keeps), folder / "compact")
    restored.put_back(made, base, folder / "whole")
    return folder / "whole"


def masked(model, keeps: dict, **inputs) -> torch.Tensor:
    """Logits of the whole in which removed neurons, and channels of groups, put out 0."""
    layers = getattr(model.model, multimodal.KINDS[model.config.model_type]).layers
    for number, layer in enumerate(layers):
        ffn = layer.mlp.down_proj if hasattr(layer, "mlp") else layer.feed_forward.w2
        sites = {"ffn": ffn, **({"kv_groups": layer.self_attn.o_proj} if "kv_groups" in keeps else {})}
        for name, own in keeps.items():
            on = torch.tensor(own[number]).repeat_interleave(sites[name].in_features // len(own[number]))
            sites[name].register_forward_pre_hook(lambda _, args, on=on: (args[0] * on,))
    return model(**inputs).logits


def rest(tensors: dict[str, torch.Tensor], base: Path) -> dict[str, bytes]:
    """What is not of the text part, byte for byte."""
    text = {*json.loads((base / multimodal.FOLDER / multimodal.NAMES).read_text()).values()}
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items() if name not in text}


@kinds
@pytest.mark.parametrize("widths", [(20, 20), (7, 31)], ids=["uniform", "uneven"])
@torch.inference_mode()
def test_the_whole_with_a_pruned_text_part_is_the_masked_one(tmp_path, kind, widths):
    """In stock transformers, whose own class it is where widths are equal; the vision part is as it was."""
    model, keeps = tiny.whole(kind), tiny.keeps(*widths)
    base, tensors = split(tmp_path / "base", model)
    complete.check(base)
    text, _ = loading.load(base, "float32", "cpu")
    assert torch.equal(text(IDS).logits, model(input_ids=IDS).logits)
    folder, own = put_back(tmp_path, base, keeps), widths != (20, 20)
    made, found = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=own, **complete.LOADING)
    complete.refuse(folder, found)
    torch.testing.assert_close(
        made.eval()(input_ids=IDS).logits, masked(model, keeps, input_ids=IDS), rtol=1e-5, atol=1e-5
    )
    assert (type(made) is type(model)) != own and (folder / "modeling_pruned.py").exists() == own
    after = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    vision = rest(tensors, base)
    assert len(vision) > 4 and {name: after[name].numpy().tobytes() for name in vision} == vision
    assert after.keys() == tensors.keys()
    before, vision = (each.config.vision_config.to_dict() | {"dtype": None} for each in (model, made))
    assert vision == before
    config, raw = (json.loads((p / "config.json").read_text()) for p in (folder, base / multimodal.FOLDER))
    if not own:  # the numbers that mark images, and all else, are the original's
        assert (
            raw["text_config"].pop("intermediate_size") == 48 and config["text_config"].pop("intermediate_size") == 20
        )
        assert config == raw and 250 in raw.values()
    assert (folder / "preprocessor_config.json").read_text() == "{}"
    assert not (base / "preprocessor_config.json").exists()


def loaded(folder: Path):
    """By stock transformers, with the code beside the weights."""
    return AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()


@torch.inference_mode()
def test_with_an_image_it_is_the_masked_one_as_well(tmp_path):
    model, keeps = tiny.whole("llava"), tiny.keeps(7, 31)
    base, _ = split(tmp_path / "base", model)
    torch.manual_seed(1)
    seen = {"input_ids": torch.cat([torch.full((1, 4), 250), IDS], dim=1), "pixel_values": torch.randn(1, 3, 28, 28)}
    made, wanted = loaded(put_back(tmp_path, base, keeps)), masked(model, keeps, **seen)
    assert not torch.allclose(wanted, model(**seen | {"pixel_values": torch.randn(1, 3, 28, 28)}).logits)
    torch.testing.assert_close(made(**seen).logits, wanted, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_key_value_groups_go_as_well(tmp_path):
    model, keeps = tiny.whole("qwen2_5_vl"), tiny.keeps(20, 20, groups=[[1, 1], [0, 1]])
    base, _ = split(tmp_path / "base", model)
    found = loaded(put_back(tmp_path, base, keeps))(input_ids=IDS).logits
    torch.testing.assert_close(found, masked(model, keeps, input_ids=IDS), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_older_files_have_other_names_and_a_flat_config(tmp_path):
    """As those of Qwen2.5-VL on the hub: the text part's keys beside the others, in several files."""
    model, keeps = tiny.whole("qwen2_5_vl", tie_word_embeddings=False), tiny.keeps(7, 31)
    tiny.save(model, tmp_path / "base")
    path, file = tmp_path / "base/config.json", tmp_path / "base/model.safetensors"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | raw.pop("text_config") | {"model_type": "qwen2_5_vl"}))
    parts, where = ({}, {}), {}
    for name, tensor in load_file(file).items():
        own = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        parts["layers.1" in own][own] = tensor
        where[own] = f"part-{int('layers.1' in own)}.safetensors"
    assert any(name.startswith("visual.") for name in where) and "model.norm.weight" in where
    file.unlink()
    for number, part in enumerate(parts):
        save_file(part, tmp_path / f"base/part-{number}.safetensors", metadata={"format": "pt"})
    (tmp_path / "base/model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert multimodal.split(tmp_path / "base") == "qwen2_5_vl"
    complete.check(tmp_path / "base")
    found = loaded(put_back(tmp_path, tmp_path / "base", keeps))(input_ids=IDS).logits
    torch.testing.assert_close(found, masked(model, keeps, input_ids=IDS), rtol=1e-5, atol=1e-5)


def test_from_the_folder_to_the_export(tmp_path):
    """Through the stages: what is fetched is the text part, and what is exported has the whole beside it."""
    from test_export import compact_stage

    tiny.save(tiny.whole("smolvlm"), tmp_path / "mine")
    (tmp_path / "mine/chat_template.json").write_text('{"chat_template": "of an older processor"}')
    results, source = tmp_path / "results/m", {"kind": "local", "path": str(tmp_path / "mine")}
    fetch_stage.fetch_model(source, manifest := results / "base/manifest.json")
    base, place = artifacts.read_json(manifest, "base"), results / "compact"
    assert (base["model_type"], base["multimodal"], base["widths"]) == ("llama", "smolvlm", [48, 48])
    mask = tiny.write_mask(results / "mask.parquet", tiny.keeps(20, 20))
    settings, made, out = {"compensate": "none", "export": "exact"}, place / "manifest.json", tmp_path / "out"
    compact_stage.compact(settings, results / "base", manifest, mask, place / "model", made)
    export_stage.export(SETTINGS, place / "model", made, manifest, mask, out)
    content = artifacts.read_json(out / "manifest.json", "export")
    assert content["checks"]["transformers, with the rest"]["max_difference"] < 1e-5
    assert {"chat_template.json", "multimodal/chat_template.json"} <= {*content["files"]}
    assert "multimodal/config.json" in content["files"] and "`multimodal/`" in (out / "README.md").read_text()
    loading.load(out, "float32", "cpu")  # is a model as ever
    whole = AutoModelForImageTextToText.from_pretrained(out / "multimodal")
    assert whole.config.text_config.intermediate_size == 20 and type(whole).__name__.startswith("SmolVLM")


REFUSED = {
    "aya_vision": ({"model_type": "aya_vision", "text_config": {"model_type": "cohere2"}}, "text part is 'cohere2'"),
    "text part": ({"model_type": "llava", "text_config": {"model_type": "gpt2"}}, "text part of 'llava'.*'gpt2'"),
    "no text part": ({"model_type": "llava", "vision_config": {}}, "text part of 'llava': model type 'llava_text'"),
}


@pytest.mark.parametrize("config, said", REFUSED.values(), ids=REFUSED)
def test_a_text_part_of_no_known_family_is_refused_before_any_job(tmp_path, config, said):
    tiny.save(tiny.qwen2(), tmp_path / "model")
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    content = json.loads(DEFAULT.model_dump_json())
    content["models"]["tiny-reasoner"]["source"] = {"kind": "local", "path": str(tmp_path / "model")}
    with pytest.raises(InputError, match=f"models.tiny-reasoner: .*{said}"):
        preflight.check(type(DEFAULT).model_validate(content))
    with pytest.raises(InputError, match=said):
        multimodal.split(tmp_path / "model")
    assert not (tmp_path / "model/multimodal").exists()


def test_the_vocabulary_stays(tmp_path):
    tiny.save(tiny.whole("gemma3"), tmp_path / "base")
    for _ in range(2):
        with pytest.raises(InputError, match="keeps its vocabulary, which marks images"):
            Tokenizer(tmp_path / "base")
        multimodal.split(tmp_path / "base")


def test_weights_without_the_text_part_are_refused(tmp_path):
    tiny.save(tiny.whole("gemma3"), tmp_path / "base")
    tensors = load_file(file := tmp_path / "base/model.safetensors")
    save_file({name: own for name, own in tensors.items() if "language" not in name}, file, metadata={"format": "pt"})
    with pytest.raises(InputError, match="no text part among its weights: looked for model.language_model.layers"):
        multimodal.split(tmp_path / "base")

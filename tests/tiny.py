"""Models small enough to check by brute force, made on the spot."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from pruning.core import artifacts
from pruning.evaluation.runtimes import HARD_TEXT
from pruning.methods.compensation import Compensated
from pruning.models.checkpoint import Checkpoint
from pruning.models.structures import STRUCTURES

SHAPE = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 48, "max_position_embeddings": 512}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2}
LICENSE = Path(__file__).parents[1] / "LICENSE"
TEXT = [3, 77, 250, 14, 9, 120, 33, 8, 201, 5, 66, 17]
IDS = torch.tensor([TEXT, [0] * 5 + TEXT[:7]])  # the second is padded on the left
REAL = torch.tensor([[1] * 12, [0] * 5 + [1] * 7])


@torch.inference_mode()
def logits(model, ids=IDS, real=REAL) -> torch.Tensor:
    """Of the tokens that are there."""
    return model.eval()(ids, attention_mask=real).logits[real.bool()]


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte-level character, and an end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<|end|>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", pad_token="<|end|>")


ROWS = 720
"""Of the embedding beside `merged`: more than there are tokens, as in Qwen's."""


@cache
def merged(ignore_merges: bool = False, nfc: bool = False) -> str:
    """`tokenizer.json`: byte-level BPE of 700 tokens, the last of them added, trained on a text that never changes."""
    backend = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.normalizer = normalizers.NFC() if nfc else None
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    own = {"vocab_size": 699, "special_tokens": ["<|end|>"], "initial_alphabet": alphabet, "show_progress": False}
    backend.train_from_iterator([LICENSE.read_text(), HARD_TEXT * 9], trainers.BpeTrainer(**own))
    backend.add_tokens(["<|user|>"])
    around = {"single": "<|end|> $A", "special_tokens": [("<|end|>", 0)]}
    backend.post_processor = processors.TemplateProcessing(**around)
    return backend.to_str()


def with_merges(directory: Path, chat_template: str | None = None) -> Path:
    """Give a saved model of ROWS rows that tokenizer."""
    ends = {"eos_token": "<|end|>", "pad_token": "<|end|>"}
    own = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(merged()), **ends)
    own.chat_template = chat_template
    own.save_pretrained(directory)
    return directory


def qwen2(layers: int = 2, seed: int = 0, **changes) -> Qwen2ForCausalLM:
    return _spread(Qwen2ForCausalLM, Qwen2Config, layers, seed, tie_word_embeddings=True, **changes)


def llama(layers: int = 2, seed: int = 0, **changes) -> LlamaForCausalLM:
    return _spread(LlamaForCausalLM, LlamaConfig, layers, seed, **changes)


def answering(answer: str) -> Qwen2ForCausalLM:
    """A model that answers each line with the same character, and ends; nearly sure of both."""
    made = of_family("qwen2")
    line, said, end = tokenizer()("\n" + answer)["input_ids"] + [0]
    embedding, head = made.get_input_embeddings().weight, made.lm_head.weight
    with torch.no_grad():
        embedding *= 4
        for token, following in ((line, said), (said, end)):
            head[following] += 1.6 * embedding[token] / embedding[token].norm()
    return made


ROUTED = {"num_experts": 6, "num_experts_per_tok": 2}
DEEPSEEK = {"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "first_k_dense_replace": 1}
DEEPSEEK |= {"n_group": 1, "topk_group": 1, "num_key_value_heads": 4, "q_lora_rank": None, "kv_lora_rank": 8}
DEEPSEEK |= {"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "routed_scaling_factor": 1.5}
DEEPSEEK |= {"n_shared_experts": 2}
FAMILY_CHANGES = {
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "final_logit_softcapping": 1.0, "sliding_window": 8},
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8},
    "granite": {"logits_scaling": 8.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25, "sliding_window": 8},
    "qwen3": {"head_dim": 8},
    "qwen3_5_text": {"head_dim": 8, "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2}
    | {"linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    "qwen2_moe": {**ROUTED, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**ROUTED, "moe_intermediate_size": 24, "head_dim": 8, "norm_topk_prob": True},
    "olmoe": {**ROUTED, "intermediate_size": 24},
    "mixtral": {"num_local_experts": 6, "num_experts_per_tok": 2, "intermediate_size": 24},
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), DEEPSEEK),
    "gpt_oss": {"num_local_experts": 6, "num_experts_per_tok": 2, "intermediate_size": 24, "head_dim": 8},
}
"""What makes a family differ from the others, large enough to show in numbers."""


def of_family(model_type: str, layers: int = 2, seed: int = 0, **changes):
    """A tiny model of any family that transformers knows."""
    config = CONFIG_MAPPING[model_type]
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    own = {**special, **FAMILY_CHANGES.get(model_type, {}), **changes}
    if model_type in ("qwen3_5_text", "lfm2"):
        own["layer_types"] = (own["layer_types"] * layers)[:layers]
    layers += own.get("first_k_dense_replace", 0)  # those that masks are of, and before them a dense one
    made = _spread(AutoModelForCausalLM._model_mapping[config], config, layers, seed, **own)
    for name, buffer in made.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.randn_like(buffer) * 0.2)
    return made


VISION = {
    "qwen2_vl": {"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2},
    "qwen2_5_vl": {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32},
    "qwen3_vl": {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
    "qwen3_5": {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    | {"num_position_embeddings": 16},
    "lfm2_vl": {"model_type": "siglip2_vision_model", "num_patches": 4},
    "gemma3": {"model_type": "siglip_vision_model"},
    "llava": {"model_type": "clip_vision_model", "projection_dim": 16},
    "mistral3": {"model_type": "pixtral"},
    "idefics3": {},
    "smolvlm": {},
}
"""Of multimodal models."""
TEXT_OF = {"gemma3": "gemma3_text", "mistral3": "mistral", "llava": "llama", "idefics3": "llama", "smolvlm": "llama"}
TEXT_OF |= {"lfm2_vl": "lfm2", "qwen3_5": "qwen3_5_text"}
TEXT_OF |= {kind: f"{kind}_text" for kind in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")}
"""And of which family their text parts are."""


def whole(kind: str, layers: int = 2, seed: int = 0, **changes):
    """A tiny multimodal model, whose token 250 is an image's."""
    inside, image = TEXT_OF[kind], "image_token_index" if kind in ("gemma3", "llava", "mistral3") else "image_token_id"
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14}
    text = {**SHAPE, "num_hidden_layers": layers, "model_type": inside, "head_dim": 8}
    text |= FAMILY_CHANGES.get(inside, {}) | {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    if "qwen" in kind:
        vision = {}
        text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    config = CONFIG_MAPPING[kind](text_config=text | changes, vision_config=vision | VISION[kind], **{image: 250})
    torch.manual_seed(seed)
    return _random(AutoModelForImageTextToText._model_mapping[type(config)](config))


def _spread(model, config, layers, seed, **changes):
    """Random weights, larger than usual and with uneven norms, so that nothing is nearly constant."""
    torch.manual_seed(seed)
    return _random(model(config(num_hidden_layers=layers, **{**SHAPE, **changes})))


def _random(made):
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.5 if "norm" in name else 0.15) + ("norm" in name))
    return made.eval().requires_grad_(False)


def save(model, directory: Path) -> Path:
    model.save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


def with_a_merge(directory: Path) -> Path:
    """Give a saved tokenizer a merge, without which there is no GGUF file; a byte makes way for what it makes."""
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["ab"] = vocabulary.pop(max(vocabulary, key=vocabulary.get))
    content["model"]["merges"] = [["a", "b"]]
    path.write_text(json.dumps(content))
    return directory


CALIBRATION = {
    **{"samples": 11, "sequence_length": 24, "packing": "document", "seed": 3, "micro_batch": 4, "dtype": "float32"},
    **{"token_mask": "answer", "prompt": "Q: {question}\n", "completion": "A: {answer}"},
}
"""A calibration's settings, as a stage gets them, for the text of `to_calibrate`."""


def to_calibrate(folder: Path) -> tuple[Path, Path]:
    """A model's directory, and the parquet of twelve questions with answers of uneven lengths."""
    texts = {"question": [f"{i} + {3 * i % 7}" for i in range(12)], "answer": [4 * i for i in range(12)]}
    artifacts.write_parquet(folder / "data.parquet", pd.DataFrame(texts), "dataset", {})
    return save(llama(), folder / "model"), folder / "data.parquet"


def fetched(folder: Path, model) -> Path:
    """A model as fetching leaves it: with its manifest.json in it."""
    record(save(model, folder))
    return folder


def record(folder: Path) -> Path:
    """The manifest.json of a model's directory, written into it."""
    base = Checkpoint(folder)
    original = {"widths": base.widths, "parameters": base.parameters}
    content = {"files": artifacts.directory_hashes(folder), "original": original, **original}
    artifacts.write_json(folder / "manifest.json", content, "base", {})
    return folder / "manifest.json"


def keeps(*widths: int, groups: Sequence[Sequence[int]] = (), size: int = 48, seed: int = 0) -> dict:
    """A mask: so many neurons of each layer, at random, and, where given, these key-value groups of each."""
    rng = np.random.default_rng(seed)
    made = {"ffn": [np.isin(np.arange(size), rng.permutation(size)[:width]) for width in widths]}
    return made | ({"kv_groups": [np.array(own, dtype=bool) for own in groups]} if groups else {})


def biased(base: Checkpoint, keeps: Mapping[str, Sequence[np.ndarray]]) -> Callable[[int], Compensated]:
    """A compensation that leaves the kept weights as they are, and gives down_proj a random bias."""
    biases = np.random.default_rng(0).normal(size=(base.layers, base.config["hidden_size"])).astype(np.float32)
    return lambda layer: Compensated(base.matrix(layer, "down")[:, keeps["ffn"][layer]], biases[layer], {})


def written(pruning, folder: Path, **options) -> Path:
    """What a `Pruning` makes, in a new folder."""
    folder.mkdir()
    pruning.write(folder, **options)
    return folder


def mask_frame(keeps: Mapping[str, Sequence[np.ndarray]]) -> pd.DataFrame:
    rows = [
        pd.DataFrame({"structure": name, "layer": layer, "unit": range(len(keep)), "keep": keep})
        for name, own in keeps.items()
        for layer, keep in enumerate(own)
    ]
    return pd.concat(rows, ignore_index=True)


def write_mask(path: Path, keeps: Mapping[str, Sequence[np.ndarray]]) -> Path:
    frame = mask_frame(keeps)
    artifacts.write_parquet(path, frame.drop(columns="structure") if keeps.keys() == {"ffn"} else frame, "mask", {})
    return path


def write_statistics(path: Path, widths: Sequence[int] = (48, 48)) -> Path:
    """Of a calibration of ten tokens, what a bias is made of."""
    units = [(layer, unit) for layer, width in enumerate(widths) for unit in range(width)]
    frame = pd.DataFrame(units, columns=["layer", "unit"])
    frame = frame.assign(act_sum=np.random.default_rng(0).normal(size=len(frame)), n_tokens=10)
    artifacts.write_parquet(path, frame, "statistics", {})
    return path


@contextmanager
def watched(modules) -> Iterator[list[list[tuple[torch.Tensor, torch.Tensor]]]]:
    """For each module the first input and the output of every call, as they come."""
    with ExitStack() as hooks:
        found = []
        for module in modules:
            found.append(calls := [])
            hook = module.register_forward_hook(lambda _, args, output, calls=calls: calls.append((args[0], output)))
            hooks.enter_context(hook)
        yield found


def silenced(model, keeps: Mapping[str, Sequence[np.ndarray]], instead: Sequence[np.ndarray] | None = None):
    """The dense model in which removed units put out 0, or the values of `instead` [layers, channels], by hooks on what
    their sites get."""
    for name, own in keeps.items():
        for layer, (site, keep) in enumerate(zip(STRUCTURES[name].sites(model), own, strict=True)):
            on = torch.tensor(np.repeat(keep, site.in_features // max(len(keep), 1)))
            other = 0 if instead is None else torch.tensor(instead[layer]) * ~on
            site.register_forward_pre_hook(lambda _, args, on=on, other=other: (args[0] * on + other,))
    return model


def gguf(model: LlamaForCausalLM, file: Path, head: tuple[torch.Tensor, str] | None = None) -> Path:
    """The model as a GGUF file: matrices Q4_1 where rows are whole blocks of 32, the rest float32, embeddings tied or,
    where a head and its type are given, beside that."""
    import gguf as library

    config, vocabulary = model.config, tokenizer().get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)[:-1] + ["ab"]  # a byte makes way for what the merge makes
    writer = library.GGUFWriter(file, "llama")
    said = {"name": "tiny", "block_count": config.num_hidden_layers, "context_length": config.max_position_embeddings}
    said |= {"embedding_length": config.hidden_size, "feed_forward_length": config.intermediate_size}
    said |= {"head_count": config.num_attention_heads, "head_count_kv": config.num_key_value_heads}
    said |= {"layer_norm_rms_eps": config.rms_norm_eps, "vocab_size": config.vocab_size, "tokenizer_model": "gpt2"}
    said |= {"token_list": tokens, "token_types": [3, *[1] * (len(tokens) - 1)]}  # the end token is a control token
    said |= {"token_merges": ["a b"], "eos_token_id": 0, "pad_token_id": 0}
    said |= {"chat_template": "{{ messages[0].content }}"}
    for key, value in said.items():
        getattr(writer, f"add_{key}")(value)
    names = library.get_tensor_name_map(library.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    quantisation = library.GGMLQuantizationType.Q4_1
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        values, short = tensor.numpy(), names.get_name(name, try_suffixes=(".weight",))
        kind = quantisation if values.ndim == 2 and values.shape[1] % 32 == 0 else library.GGMLQuantizationType.F32
        writer.add_tensor(short, library.quants.quantize(values, kind), raw_dtype=kind)
    if head:
        kind = library.GGMLQuantizationType[head[1]]
        writer.add_tensor("output.weight", library.quants.quantize(head[0].numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def killed_in(monkeypatch, module, function: str, after: int) -> list[int]:
    """Lets a function be killed once, at a later call. Returns one item per call that was made."""
    calls, own = [], getattr(module, function)

    def dying(*given):
        calls.append(len(calls))
        if len(calls) == after + 1:
            raise KeyboardInterrupt
        return own(*given)

    monkeypatch.setattr(module, function, dying)
    return calls

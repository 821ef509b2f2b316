"""Does an exported folder hold the model that it should? It is loaded by stock tools, and their numbers are compared.

Each check gets the folder and what is expected of it (`Expected`), and returns {`max_difference`, of logits or of
log-probabilities}. To add a runtime, add a function to RUNTIMES. A GGUF file is tried in llama.cpp (`in_llama_cpp`).
"""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PreTrainedModel, PreTrainedTokenizerBase

from pruning.core.errors import InputError
from pruning.models import complete, structures
from pruning.models.checkpoint import read_config
from pruning.models.gguf import llama
from pruning.models.structures.base import Keeps

TEXT = "Question: Tom has 3 boxes of 12 pencils and gives 7 pencils away. How many pencils are left?\nAnswer: 3 x 12 ="
HARD_TEXT = "It's 3.14159, WE'LL pay 1,234,567 €\n\n\tdef f(x):  return x**2  # naïve café, 日本語, कैसे, 👩‍💻 …!?\r\n "
"""Of everything that pre-tokenizers treat differently."""
DIGITS = "a  12\n\n3. x\t \t45"
"""Blanks before digits, which some take apart first."""
NEW_TOKENS = 16
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}
"""Of a difference, as a share of the largest logit: the same weights, summed in another order."""


@dataclass(frozen=True)
class Expected:
    """What our own loader computes."""

    dtype: str
    ids: torch.Tensor
    """[1, T]"""
    logits: torch.Tensor
    """[1, T, V]"""
    tokens: list[int]
    """Of the greedy continuation."""


@torch.inference_mode()
def expected(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: str) -> Expected:
    """Of TEXT."""
    batch = torch.tensor([tokenizer(TEXT)["input_ids"]], device=model.device)
    return Expected(dtype, batch.cpu(), model(batch).logits.float().cpu(), greedy(model, batch))


def greedy(model: PreTrainedModel, ids: torch.Tensor) -> list[int]:
    """NEW_TOKENS more, whatever the model's own settings of generation are."""
    ids = ids.to(model.device)
    for _ in range(NEW_TOKENS):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, -NEW_TOKENS:].tolist()


def stock(folder: Path, dtype: str) -> PreTrainedModel:
    """As anyone would load it; code is run only where we have written some."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), trust_remote_code="auto_map" in read_config(folder)
    ).eval()


def difference(found: torch.Tensor, wanted: Expected, runtime: str) -> float:
    """The largest one. Raises InputError if it is more than rounding."""
    apart = (found.float().cpu() - wanted.logits).abs().max().item()
    if not apart <= TOLERANCE[wanted.dtype] * wanted.logits.abs().max().item():
        raise InputError(f"export: in {runtime} the logits are up to {apart:.3g} from those of the model: not exported")
    return apart


@torch.inference_mode()
def in_transformers(folder: Path, wanted: Expected) -> dict[str, object]:
    model = stock(folder, wanted.dtype)
    apart = difference(model(wanted.ids).logits, wanted, "transformers")
    return {"max_difference": apart, "same_text": greedy(model, wanted.ids) == wanted.tokens}


@torch.inference_mode()
def in_peft(folder: Path, wanted: Expected) -> dict[str, object]:
    """With a fresh adapter on every linear module, which changes nothing yet."""
    from peft import LoraConfig, get_peft_model

    tuned = get_peft_model(stock(folder, wanted.dtype), LoraConfig(r=2, target_modules="all-linear"))
    return {"max_difference": difference(tuned(wanted.ids).logits, wanted, "peft")}


@torch.inference_mode()
def in_lm_eval(folder: Path, wanted: Expected) -> dict[str, object]:
    """lm-eval's own Hugging Face model on the folder's name."""
    from lm_eval.models.huggingface import HFLM

    own_code = "auto_map" in read_config(folder)
    lm = HFLM(pretrained=str(folder), dtype=wanted.dtype, device="cpu", trust_remote_code=own_code, batch_size=1)
    return {"max_difference": difference(lm._model_call(wanted.ids), wanted, "lm-eval")}


@torch.inference_mode()
def in_whole(folder: Path, wanted: Expected) -> dict[str, object]:
    """A multimodal model, on text alone. Raises InputError for weights that are not all there, or of no use."""
    own_code = "auto_map" in read_config(folder)
    model, found = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=getattr(torch, wanted.dtype), trust_remote_code=own_code, **complete.LOADING
    )
    complete.refuse(folder, found)
    return {"max_difference": difference(model.eval()(input_ids=wanted.ids).logits, wanted, "transformers")}


RUNTIMES = {"transformers": in_transformers, "peft": in_peft, "lm_eval": in_lm_eval}


def check(folder: Path, wanted: Expected) -> dict[str, dict[str, object]]:
    """Runtime -> what was found."""
    return {name: run(folder, wanted) for name, run in RUNTIMES.items()}


def in_llama_cpp(
    file: Path, wanted: Expected, tokenizer: PreTrainedTokenizerBase, dtype: str | None
) -> dict[str, object]:
    """A GGUF file in llama.cpp, by llama-cpp-python. `dtype`: what its weights are stored in, None if quantised.

    Besides, `kl_divergence`: of its next tokens from the expected ones, in nats, the mean over the text's positions.

    Raises InputError if it is not loaded, if texts become other tokens than in `tokenizer`, or if unquantised weights
    give other logits."""
    import llama_cpp

    ids = wanted.ids[0].tolist()
    length = len(ids) + NEW_TOKENS
    settings = {"n_ctx": length, "n_batch": length, "logits_all": True}
    settings |= dict.fromkeys(("type_k", "type_v"), llama_cpp.GGML_TYPE_F32)  # else what is cached is rounded too
    with llama.opened(file, "export", torch.get_num_threads(), **settings) as model:
        for text in (TEXT, HARD_TEXT, DIGITS):
            if (found := model.tokenize(text.encode(), special=True)) != tokenizer(text)["input_ids"]:
                raise InputError(f"export: llama.cpp reads {text!r} as other tokens, {found}: not exported")
        model.eval(ids)
        logits = torch.tensor(np.array(model.scores[: len(ids)]))[None]
        apart = (logits - wanted.logits).abs().max().item()
        if dtype:
            difference(logits, replace(wanted, dtype=dtype), "llama.cpp")
        for _ in range(NEW_TOKENS):
            model.eval([int(model.scores[model.n_tokens - 1].argmax())])
        same = model.input_ids[len(ids) : length].tolist() == wanted.tokens
    pairs = (logits.log_softmax(-1), wanted.logits.log_softmax(-1))
    divergence = torch.nn.functional.kl_div(*pairs, reduction="none", log_target=True).sum(-1).mean().item()
    return {"max_difference": apart, "same_text": same, "kl_divergence": divergence}


@torch.inference_mode()
def masked(dense: PreTrainedModel, keeps: Keeps, wanted: Expected) -> float:
    """Return the largest difference from the dense model whose removed units put out 0 at every token, or get none."""
    with ExitStack() as stack:
        for name, own in keeps.items():
            stack.enter_context(structures.STRUCTURES[name].silenced(dense, own))
        found = dense(wanted.ids.to(dense.device)).logits
    return difference(found, wanted, "the dense model without the removed units")

"""A stand-in for vLLM 0.33, where that cannot be installed: what lm-eval's class calls of it, answered by transformers.

Names, arguments and outputs are those of its source; other arguments are errors, as they are there. So is what it does
with a model: stock architectures by their own class; in the Transformers backend `AutoModel` from the config, weights
by their names, a head of its own (vllm/model_executor/models/transformers/{base,causal}.py).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TypedDict

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoTokenizer

# Of EngineArgs and LLM.__init__: those that may be named here.
ARGUMENTS = {
    *("model", "revision", "dtype", "tokenizer", "tokenizer_mode", "tokenizer_revision", "trust_remote_code"),
    *("tensor_parallel_size", "max_model_len", "max_num_seqs", "quantization", "seed", "enable_lora", "max_lora_rank"),
    *("gpu_memory_utilization", "model_impl", "generation_config", "enforce_eager"),
}


class TokensPrompt(TypedDict):
    prompt_token_ids: list[int]


@dataclass
class SamplingParams:
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    stop: list[str] = field(default_factory=list)
    stop_token_ids: list[int] = field(default_factory=list)
    max_tokens: int = 16
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True


class LLM:
    made: list["LLM"] = []

    def __init__(self, **arguments):
        assert arguments.keys() <= ARGUMENTS, arguments.keys() - ARGUMENTS
        LLM.made.append(self)
        self.arguments, self.calls = arguments, []
        folder, trust = arguments["model"], arguments["trust_remote_code"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
        context = config.max_position_embeddings
        length = arguments["max_model_len"] or context
        assert length <= context
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=length))
        dtype = getattr(torch, arguments["dtype"])
        if arguments["model_impl"] == "transformers":
            self.logits = in_transformers_backend(folder, config, trust, dtype)
        else:
            (architecture,) = json.loads(Path(folder, "config.json").read_text())["architectures"]
            stock = getattr(transformers, architecture)  # vLLM has classes for stock ones alone
            model = stock.from_pretrained(folder, dtype=dtype).eval()
            self.logits = lambda ids: model(ids).logits

    def generate(self, prompts, *, sampling_params, use_tqdm, lora_request):
        assert len(prompts) == len(sampling_params)
        self.calls.append(len(prompts))
        rows = zip(prompts, sampling_params, strict=True)
        return [self._answer(prompt["prompt_token_ids"], own) for prompt, own in rows]

    @torch.inference_mode()
    def _answer(self, prompt: list[int], asked: SamplingParams):
        assert len(prompt) + 1 <= self.llm_engine.model_config.max_model_len
        scored = None
        if asked.prompt_logprobs:
            rows = self.logits(torch.tensor([prompt]))[0].float().log_softmax(-1)
            scored = [None]
            for row, token in zip(rows[:-1], prompt[1:], strict=True):
                listed = {token, int(row.argmax())}
                scored.append({each: SimpleNamespace(logprob=row[each].item()) for each in listed})
        ids, text, finish = [], "", "length"
        while len(ids) < asked.max_tokens and finish == "length":
            row = self.logits(torch.tensor([[*prompt, *ids]]))[0, -1].float()
            seen = torch.tensor([*prompt, *ids]).unique()  # vllm/model_executor/layers/utils.py, apply_penalties
            penalty = asked.repetition_penalty
            row[seen] = torch.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
            if asked.temperature:
                row = row / asked.temperature - torch.empty_like(row).exponential_().log()
            ids.append(int(row.argmax()))
            if ids[-1] in {self.tokenizer.eos_token_id, *asked.stop_token_ids}:  # v1/core/sched/utils.py, check_stop
                finish = "stop"
                break
            if asked.detokenize:
                text = self.tokenizer.decode(ids, skip_special_tokens=asked.skip_special_tokens)
                places = [place for stop in asked.stop if (place := text.find(stop)) >= 0]
                text, finish = (text[: min(places)], "stop") if places else (text, finish)
        made = SimpleNamespace(text=text, token_ids=ids, finish_reason=finish)
        return SimpleNamespace(prompt_logprobs=scored, outputs=[made])


def in_transformers_backend(folder: str, config, trust: bool, dtype):
    with torch.device("meta"):
        model = AutoModel.from_config(config, dtype=dtype, trust_remote_code=trust)
    assert model.is_backend_compatible()
    weights = {}
    for file in Path(folder).glob("*.safetensors"):
        weights |= load_file(file)
    body = {name.removeprefix("model."): tensor.to(dtype) for name, tensor in weights.items() if "lm_head" not in name}
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).to(dtype)
    real = type(model)(config).to(dtype)  # buffers with their values
    real.load_state_dict(body, strict=True)
    return lambda ids: real.eval()(ids).last_hidden_state @ head.T

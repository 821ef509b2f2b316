"""Greedy generation against transformers' own, one prompt at a time; what ends a row, by hand."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import tiny
from pruning.evaluation import generation
from pruning.evaluation.generation import StopStrings, common_prefix, greedy, loops, prefix_cache
from pruning.models import families
from pruning.models.structures import ffn, kv_groups

EXAMPLES = list(range(30, 60))
PROMPTS = [EXAMPLES + own for own in ([7, 8], [9], [200, 3, 5, 12, 40, 41, 42], [7, 9, 11])]


def groups_cut():
    """The first layer has one key-value group of two."""
    model = tiny.qwen2()
    kv_groups.STRUCTURE.shrink(model.model.layers[0], 0, [np.array([False, True])], families.of(model))
    return model


def first_dropped():
    """The first layer has no attention, the second no FFN."""
    model = tiny.qwen2(3)
    family, layers = families.of(model), model.model.layers
    kv_groups.STRUCTURE.shrink(layers[0], 0, [np.array([False, False])], family)
    ffn.shrink(layers[1], 1, [None, np.zeros(48, dtype=bool)], family)
    return model


MODELS = {
    "first dropped": first_dropped,
    "groups cut": groups_cut,
    "qwen2": tiny.qwen2,
    "llama": tiny.llama,
    "mistral": partial(tiny.of_family, "mistral", sliding_window=8),  # every layer looks back eight tokens only
    "gemma3": partial(tiny.of_family, "gemma3_text", layer_types=["sliding_attention", "full_attention"]),
    "deepseek_v3": partial(tiny.of_family, "deepseek_v3"),  # keeps compressed keys and values
    **{name: partial(tiny.of_family, name) for name, own in families.FAMILIES.items() if own.hybrid},  # have states
}
COMPUTED_ONCE = {"first dropped", "groups cut", "qwen2", "llama"}
"""Those of which the beginning of all prompts can be."""


def reference(model, prompt: list[int], limit: int) -> list[int]:
    ids = torch.tensor([prompt])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=limit, eos_token_id=-1
    )
    return made[0, len(prompt) :].tolist()


def never(row: int, tokens: list[int]) -> bool:
    return False


@pytest.mark.parametrize("shared", [0, 30])
@pytest.mark.parametrize("family", MODELS)
def test_tokens_are_those_of_transformers(family, shared, monkeypatch):
    monkeypatch.setattr(generation, "ROOM", 5)  # buffers grow several times
    model = MODELS[family]()
    prefix = prefix_cache(model, EXAMPLES) if shared else None
    assert (prefix is not None) == (shared > 0 and family in COMPUTED_ONCE)
    made = greedy(model, PROMPTS, 40, never, pad=0, prefix=prefix)
    expected = [reference(model, prompt, 40) for prompt in PROMPTS]
    assert [row.tokens for row in made] == expected
    assert {row.finish for row in made} == {"length"}
    assert len({tuple(tokens) for tokens in expected}) == len(PROMPTS)


@pytest.mark.parametrize("shared", [0, 30])
@pytest.mark.parametrize("family", ["groups cut", "qwen2", "gemma3"])
def test_prompts_of_unlike_lengths_are_read_apart(family, shared):
    """Tokens are those of transformers; padding is computed where windows would count it."""
    model, read = MODELS[family](), []
    prompts = [EXAMPLES + [(7 * row + 3 * n) % 250 for n in range(size)] for row, size in enumerate((90, 1, 40, 18))]
    prefix = prefix_cache(model, EXAMPLES) if shared else None
    shared = shared if prefix else 0
    hook = lambda _, a, k: read.append(tuple(k["input_ids"].shape))  # noqa: E731
    handle = model.register_forward_pre_hook(hook, with_kwargs=True)
    made = greedy(model, prompts, 12, never, pad=0, prefix=prefix)
    handle.remove()
    assert [row.tokens for row in made] == [reference(model, prompt, 12) for prompt in prompts]
    wanted = {0: [(2, 48), (1, 70), (1, 120)], 30: [(1, 1), (1, 18), (1, 40), (1, 90)]}
    assert read[:-11] == ([(4, 120)] if family == "gemma3" else wanted[shared])


@given(lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=40))
def test_groups_are_all_rows_and_no_row_is_padded_far(lengths):
    groups = generation.alike(lengths)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        own = [lengths[row] for row in group]
        assert group == sorted(group) and max(own) <= 1.25 * min(own) + 16
    for before, after in zip(groups, groups[1:], strict=False):
        assert max(lengths[row] for row in before) < min(lengths[row] for row in after)


@pytest.mark.parametrize("family", MODELS)
def test_rows_that_end_leave_the_others_alone(family):
    """Rows end after 3, never, after 17, after 20 tokens: two of them leave the batch before the others end."""
    model, ends, rows = MODELS[family](), [3, 99, 17, 20], []
    model.register_forward_pre_hook(lambda _, a, k: rows.append(len(k["input_ids"])), with_kwargs=True)
    made = greedy(model, PROMPTS, 40, lambda row, tokens: len(tokens) == ends[row], pad=0)
    assert [row.finish for row in made] == ["stop", "length", "stop", "stop"]
    assert rows == [4] * 8 + [3] * 16 + [1] * 16
    for row, prompt, end in zip(made, PROMPTS, ends, strict=True):
        assert row.tokens == reference(model, prompt, min(end, 40))


def test_a_prefix_is_used_and_not_changed():
    model = tiny.qwen2()
    prefix, other = prefix_cache(model, EXAMPLES), prefix_cache(model, [1] * 30)
    before = prefix.layers[0].keys.clone()
    first = greedy(model, PROMPTS, 10, never, pad=0, prefix=prefix)
    assert torch.equal(prefix.layers[0].keys, before)
    assert greedy(model, PROMPTS, 10, never, pad=0, prefix=prefix) == first
    assert greedy(model, PROMPTS, 10, never, pad=0, prefix=other) != first


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=5))
def test_the_common_prefix_is_the_longest_that_leaves_every_prompt_a_token(prompts):
    length = common_prefix(prompts)
    assert len({tuple(prompt[:length]) for prompt in prompts}) == 1
    longer = {tuple(prompt[: length + 1]) for prompt in prompts}
    assert len(longer) > 1 or min(map(len, prompts)) == length + 1


@pytest.mark.parametrize("left", [0, 32, 33, 100])
@pytest.mark.parametrize("period", [1, 2, 13, 21, 22, 48, 49])
@pytest.mark.parametrize("short", [0, 1])
def test_a_loop_is_its_definition(period, short, left):
    """Noise, then a block of `period` different tokens over and over: enough of them, or one too few."""
    repeated = max(64, 3 * period, 2 * left) - short
    row = [900, 901] + [i % period for i in range(period + repeated)]
    noise = list(range(1000, 1000 + len(row)))
    assert loops(torch.tensor([row, noise]), left).tolist() == [short == 0 and period <= 48, False]


def test_a_row_in_a_loop_ends_there():
    """A random model soon repeats itself, the longer the surer."""
    model = tiny.qwen2(seed=3)
    made = greedy(model, PROMPTS, 400, never, pad=0)
    expected = [reference(model, prompt, 400) for prompt in PROMPTS]
    assert {"loop"} <= {row.finish for row in made}
    for row, tokens in zip(made, expected, strict=True):
        looping = [bool(loops(torch.tensor([tokens[:n]]), 400 - n)) for n in range(8, 400, 8)]
        end = 8 * (looping.index(True) + 1) if True in looping else 400
        assert (row.tokens, row.finish) == (tokens[:end], "loop" if True in looping else "length")


@pytest.mark.parametrize(("end", "length", "finish"), [(96, 97, "stop"), (250, 251, "stop"), (999, 272, "loop")])
def test_a_row_that_may_still_leave_its_loop_is_let_go_on(end, length, finish):
    """What is said is dictated: two tokens by turns, for some time; 272 is the first look with 2 (400 - n) repeated."""

    def dictate(written, scores):
        said = written.shape[1] - len(PROMPTS[1])
        return torch.nn.functional.one_hot(torch.tensor([9 if said == end else said % 2]), scores.shape[1]).float()

    (row,) = greedy(tiny.qwen2(), PROMPTS[1:2], 400, lambda _, t: t[-1] == 9, pad=0, processors=dictate)
    assert (len(row.tokens), row.finish) == (length, finish)


TOKENIZER = tiny.tokenizer()
TOKENS = st.lists(st.integers(1, 256), min_size=1, max_size=12)


@settings(max_examples=200)
@given(TOKENS, st.lists(st.sampled_from(["é", "ab", "b", "\n\n", "Q:", "😀", ":"]), min_size=1, max_size=3))
def test_stop_strings_are_found_when_the_whole_text_has_them(ids, stops):
    """Bytes as tokens, so that characters are spread over several."""
    ids = [*ids, *TOKENIZER(stops[0])["input_ids"]]
    found = StopStrings(TOKENIZER, stops)
    first = next(n for n in range(1, len(ids) + 1) if found(ids[:n]))
    assert any(stop in TOKENIZER.decode(ids[:first]) for stop in stops)
    assert not any(stop in TOKENIZER.decode(ids[: first - 1]) for stop in stops)


def test_a_stop_string_ends_in_a_space_that_a_text_could_not_begin_with():
    """As Llama 2's decoder has it: a lone `▁` is nothing, after other text it is a space."""
    model = Tokenizer(models.BPE({"▁": 0, "▁Q": 1, ":": 2, "a": 3}, []))
    model.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    found = StopStrings(PreTrainedTokenizerFast(tokenizer_object=model), ["Q: "])
    assert [found(ids) for ids in ([3, 1], [3, 1, 2], [3, 1, 2, 0])] == [False, False, True]

"""Latency: what is built and counted, that variants are timed in turn, and the table; never how fast a machine is."""

import json
from types import SimpleNamespace

import latency as stage
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, GPT2Config, MixtralConfig

import tiny
from pruning.analysis import latency
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.methods.compact import Pruning
from pruning.models.checkpoint import Checkpoint

FAMILIES = {"qwen2": tiny.qwen2, "llama": tiny.llama}
CPU = torch.device("cpu")
SETTINGS = {
    "shape": "tiny",
    "changes": {},
    "sparsities": [50],
    "prompt_tokens": 8,
    "decode_tokens": 3,
    "rounds": 3,
    "warmup": 1,
    "dtype": "float32",
    "confidence": 0.95,
    "resamples": 200,
    "seed": 0,
    "device": "cpu",
    "padded": [],
}


@pytest.fixture(params=FAMILIES)
def config(request):
    return FAMILIES[request.param]().config


# FLOPs


def test_flops_by_hand():
    """d=32, 4 heads of 8, 2 KV heads, vocabulary 257, widths 48 and 5, 3 tokens (6 causal pairs)."""
    attention = 3 * (32 * 32 * 2 + 32 * 16 * 2) + 6 * 32 * 2
    by_hand = 2 * (2 * attention + 3 * 3 * 32 * (48 + 5) + 32 * 257)
    assert latency.prefill_flops(tiny.llama().config, [48, 5], 3) == by_hand


@pytest.mark.parametrize("changes", [{}, {"head_dim": 16}, {"num_key_value_heads": 4}])
def test_flops_are_what_torch_counts(changes):
    """torch counts attention's upper triangle too: of T^2 scores, (T + 1) / 2T are causal."""
    tokens, widths = 10, (48, 5)
    dense = tiny.llama(attn_implementation="eager", **changes)
    model = latency.narrowed(dense, widths)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=torch.zeros(1, tokens, dtype=torch.long), logits_to_keep=1)
    counts = counter.get_flop_counts()["Global"]
    linear, scores = counts.pop(torch.ops.aten.mm), counts.pop(torch.ops.aten.bmm)
    assert not counts
    assert latency.prefill_flops(dense.config, widths, tokens) == linear + scores * (tokens + 1) / (2 * tokens)


def test_the_papers_shape_is_bounded_where_its_speedup_says():
    """Qwen2.5-7B, 2048 tokens, half the FFN: the paper measured 1.42x. 28 layers, the head on one token."""
    shape = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "vocab_size": 152064}
    config = AutoConfig.for_model("qwen2", **shape, num_attention_heads=28, num_key_value_heads=4)
    dense, half = (latency.prefill_flops(config, [width] * 28, 2048) for width in (18944, 9472))
    assert dense == pytest.approx(2.757e13, rel=0.005)  # 2 * 6.53e9 layer weights * 2048, and 3% of attention
    assert dense / half == pytest.approx(1.736, abs=0.005)


# the speed-up and its interval


def test_speedup_is_the_median_of_paired_ratios():
    """The machine slows down tenfold between rounds: unpaired medians would say 20/4 = 5."""
    assert latency.speedup([2, 20, 60], [1, 4, 40], 0.95, 100, 0)[0] == 2


def test_interval_is_the_bootstraps():
    rng = np.random.default_rng(1)
    times = rng.uniform(1, 2, 30)
    ratios = rng.normal(1.5, 0.1, 30)
    median, low, high = latency.speedup(times * ratios, times, 0.5, 4000, 0)
    medians = np.median(rng.choice(ratios, (4000, 30)), axis=1)
    assert low < median < high
    assert (low, high) == pytest.approx(np.quantile(medians, [0.25, 0.75]), abs=0.005)
    assert (low, high) == latency.speedup(times * ratios, times, 0.5, 4000, 0)[1:]


@pytest.mark.parametrize("seed", range(5))
def test_interval_holds_the_median_of_few_rounds(seed):
    times = np.random.default_rng(seed).lognormal(size=(2, 3))
    median, low, high = latency.speedup(*times, 0.95, 200, seed)
    assert low <= median <= high


def test_equal_times_have_a_point_and_one_round_has_no_interval():
    assert latency.speedup([3, 4], [3, 4], 0.95, 50, 0) == (1, 1, 1)
    median, low, high = latency.speedup([3], [2], 0.95, 50, 0)
    assert median == 1.5 and np.isnan([low, high]).all()


@pytest.mark.parametrize(("dense", "times"), [([1, 2], [1]), ([], []), ([1, 2], [1, 0]), ([1, np.nan], [1, 1])])
def test_times_that_are_none_are_refused(dense, times):
    with pytest.raises(ValueError, match="equal length|above zero"):
        latency.speedup(dense, times, 0.95, 50, 0)


# the models


def test_models_share_everything_but_the_ffn(config):
    dense = latency.build(config, torch.bfloat16, CPU)
    narrow = latency.narrowed(dense, (24, 7))
    owned = {p.untyped_storage().data_ptr() for p in dense.parameters()}
    assert {p.untyped_storage().data_ptr() for p in narrow.parameters()} <= owned  # no memory of its own
    assert all(p.is_contiguous() for p in narrow.parameters())
    own, whole = dict(narrow.named_parameters()), dict(dense.named_parameters())
    assert {name for name in own if own[name] is not whole[name]} == {name for name in own if ".mlp." in name}
    assert [layer.mlp.up_proj.weight.shape[0] for layer in narrow.model.layers] == [24, 7]
    assert [layer.mlp.up_proj.weight.shape[0] for layer in dense.model.layers] == [48, 48]
    assert {parameter.dtype for parameter in own.values()} == {torch.bfloat16}
    assert not narrow.training and not any(parameter.requires_grad for parameter in own.values())


def test_weights_are_ordinary_numbers(config):
    """As in memory that was never written nothing would be."""
    for model in (dense := latency.build(config, torch.float32, CPU), latency.narrowed(dense, (24, 7))):
        for name, parameter in model.named_parameters():
            assert parameter.mean().item() == pytest.approx(float("norm" in name), abs=0.02)
            assert parameter.std().item() == pytest.approx(0.02, rel=0.5)
        assert model(torch.tensor([[1, 2, 3]])).logits.std() > 1e-3
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, FAMILIES[config.model_type]().model.rotary_emb.inv_freq)


@pytest.mark.parametrize("widths", [(24, 24), (7, 31)])
def test_parameters_are_those_of_a_really_compacted_model(config, widths, tmp_path):
    base = tiny.save(FAMILIES[config.model_type](), tmp_path / "base")
    (tmp_path / "compact").mkdir()
    Pruning(Checkpoint(base), {"ffn": [np.arange(48) < width for width in widths]}).write(tmp_path / "compact")
    dense = latency.build(config, torch.float32, CPU)
    assert latency.parameters(dense) == Checkpoint(base).parameters
    assert latency.parameters(latency.narrowed(dense, widths)) == Checkpoint(tmp_path / "compact").parameters


# measuring


class Clock:
    """A clock that only models move: by their own speed, times the tokens, and more every call (a drift)."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(latency, "perf_counter", lambda: self.now)

    def model(self, name: str, seconds: float):
        def forward(input_ids, use_cache, logits_to_keep, cache=None):
            assert use_cache and logits_to_keep == 1
            self.calls.append((name, input_ids.shape[1], cache))
            self.now += seconds * input_ids.shape[1]
            return SimpleNamespace(logits=torch.eye(9)[None, 4:5], cache=f"cache of {name}")

        model = torch.nn.Linear(1, 1)
        model.forward, model.config, model.device = forward, SimpleNamespace(vocab_size=9), CPU
        return model


def test_one_round_prefills_once_and_decodes_token_by_token(monkeypatch):
    clock = Clock(monkeypatch)
    samples = latency.measure({"dense": clock.model("dense", 0.5)}, 7, 3, rounds=1, warmup=0, seed=0)
    assert clock.calls == [("dense", 7, None)] + 3 * [("dense", 1, "cache of dense")]
    assert samples[["prefill_s", "decode_s"]].to_numpy().tolist() == [[3.5, 1.5]]
    assert samples["peak_memory_mb"].isna().all()


def test_variants_take_turns_in_changing_order(monkeypatch):
    clock = Clock(monkeypatch)
    models = {name: clock.model(name, seconds) for name, seconds in (("a", 1), ("b", 2), ("c", 4))}
    samples = latency.measure(models, 2, 1, rounds=12, warmup=2, seed=0)
    assert len(clock.calls) == (12 + 2) * 3 * 2
    assert samples["round"].tolist() == [number for number in range(12) for _ in models]
    orders = samples.groupby("round")["variant"].agg("".join)
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert {order[0] for order in orders} == {"a", "b", "c"}
    assert samples.groupby("variant")["prefill_s"].unique().map(list).to_dict() == {"a": [2], "b": [4], "c": [8]}
    again = latency.measure(models, 2, 1, rounds=12, warmup=2, seed=0)
    other = latency.measure(models, 2, 1, rounds=12, warmup=2, seed=1)
    assert again["variant"].tolist() == samples["variant"].tolist() != other["variant"].tolist()


def test_decoding_continues_the_prompt(config):
    """With the cache, greedy tokens are those of whole forwards."""
    model = latency.build(config, torch.float32, CPU)
    seen = []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    latency.measure({"dense": model}, 6, 4, rounds=1, warmup=0, seed=0)
    model._forward_pre_hooks.clear()
    assert [ids.shape[1] for ids in seen] == [6, 1, 1, 1, 1]
    text = torch.cat(seen, dim=1)
    predicted = model(text).logits.argmax(-1)
    assert predicted[0, 5:-1].tolist() == text[0, 6:].tolist()


def test_on_gpus_device_events_give_the_seconds(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append(self)

        def synchronize(self):
            log.append("wait")

        def elapsed_time(self, end):
            assert log == [self, "work", end, "wait"]
            return 250.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert latency._timed(lambda: log.append("work"), on_gpu=True) == (None, 0.25)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_memory_on_a_gpu_is_the_models_own():
    dense = latency.build(
        tiny.qwen2(hidden_size=1024, intermediate_size=8192).config, torch.float32, torch.device("cuda")
    )
    models = {"dense": dense, "narrow": latency.narrowed(dense, (4096, 4096))}
    peaks = latency.measure(models, 8, 2, rounds=2, warmup=1, seed=0).groupby("variant")["peak_memory_mb"].max()
    for name, model in models.items():
        weights = 4 * latency.parameters(model) / 1e6
        assert weights < peaks[name] < weights + 30


# the stage


def run(folder, *masks: str, config=None, **changes) -> pd.DataFrame:
    (config or tiny.qwen2().config).save_pretrained(folder)
    stage.latency({**SETTINGS, **changes}, folder / "latency.csv", folder / "config.json", list(masks), threads=1)
    return pd.read_csv(folder / "latency.csv")


def mask(folder, name: str, widths) -> str:
    keep = [[unit < width for unit in range(max(widths))] for width in widths]
    frame = pd.DataFrame([{"layer": n, "unit": u, "keep": k} for n, ks in enumerate(keep) for u, k in enumerate(ks)])
    artifacts.write_parquet(folder / f"{name}.parquet", frame, "mask", {})
    return f"{name}={folder / name}.parquet"


def test_table_has_a_row_a_variant(tmp_path):
    frame = run(tmp_path, mask(tmp_path, "rku", [48, 12]), sparsities=[50, 25])
    assert list(frame) == [
        *("shape", "variant", "sparsity", "device", "dtype", "threads", "prompt_tokens", "decode_tokens", "rounds"),
        *("parameters", "prefill_s", "prefill_speedup", "prefill_speedup_low", "prefill_speedup_high", "flop_ratio"),
        *("decode_tokens_per_s", "decode_speedup", "decode_speedup_low", "decode_speedup_high", "peak_memory_mb"),
    ]
    assert frame["variant"].tolist() == ["dense", "uniform/50", "uniform/25", "rku"]
    assert frame["sparsity"].tolist() == [0, 0.5, 0.25, 0.375]
    whole = sum(parameter.numel() for parameter in tiny.qwen2().parameters())
    assert frame["parameters"].tolist() == [whole - removed * 3 * 32 for removed in (0, 48, 24, 36)]
    assert frame.loc[0, ["prefill_speedup", "decode_speedup_low", "flop_ratio"]].tolist() == [1, 1, 1]
    widths = ([48, 48], [24, 24], [36, 36], [48, 12])
    flops = [latency.prefill_flops(tiny.qwen2().config, pair, 8) for pair in widths]
    assert frame["flop_ratio"].tolist() == pytest.approx([flops[0] / other for other in flops], rel=1e-5)
    for part in ("prefill", "decode"):
        low, median, high = (frame[f"{part}_speedup{end}"] for end in ("_low", "", "_high"))
        assert ((low <= median) & (median <= high)).all()
    assert set(frame["shape"]) == {"tiny"} and frame["device"].str.len().min() > 0
    assert frame["peak_memory_mb"].isna().all()


def test_figures_are_the_samples_medians(tmp_path, monkeypatch):
    """Rounds of dense 2, 4, 9 s and half of it 1, 4, 3 s; decoding takes ten times as long."""
    times = {"dense": [2, 4, 9], "uniform/50": [1, 4, 3]}
    rows = [
        {"round": n, "variant": name, "prefill_s": s, "decode_s": 10 * s, "peak_memory_mb": 100 + n}
        for name, seconds in times.items()
        for n, s in enumerate(seconds)
    ]
    monkeypatch.setattr(latency, "measure", lambda *_: pd.DataFrame(rows))
    frame = run(tmp_path).set_index("variant")
    assert frame["prefill_s"].tolist() == [4, 3]
    assert frame["decode_tokens_per_s"].tolist() == pytest.approx([3 / 40, 3 / 30])
    assert frame["prefill_speedup"].tolist() == frame["decode_speedup"].tolist() == [1, 2]
    assert frame["peak_memory_mb"].tolist() == [102, 102]


def test_equal_widths_are_measured_once_and_repeated(tmp_path, monkeypatch):
    measured, made = [], []
    measure, narrowed = latency.measure, latency.narrowed
    monkeypatch.setattr(latency, "narrowed", lambda dense, widths: (made.append(widths), narrowed(dense, widths))[1])
    monkeypatch.setattr(latency, "measure", lambda models, *args: (measured.extend(models), measure(models, *args))[1])
    pairs = (mask(tmp_path, name, widths) for name, widths in (("a", [24, 24]), ("b", [7, 9]), ("c", [7, 9])))
    frame = run(tmp_path, *pairs, sparsities=[0, 50])
    assert measured == ["dense", "uniform/50", "b"]
    assert made == [(24, 24), (7, 9)]
    assert frame["variant"].tolist() == ["dense", "uniform/0", "uniform/50", "a", "b", "c"]
    values = frame.drop(columns="variant")
    for first, second in ((0, 1), (2, 3), (4, 5)):
        assert values.iloc[first].equals(values.iloc[second])
    assert not values.iloc[0].equals(values.iloc[2])


def test_padded_models_are_as_wide_as_their_widest_layer(tmp_path):
    frame = run(tmp_path, mask(tmp_path, "padded", [7, 36]), sparsities=[25], padded=["padded"])
    assert frame["parameters"].tolist()[1] == frame["parameters"].tolist()[2]
    assert frame["sparsity"].tolist() == [0, 0.25, 0.25]


def test_a_mask_that_cuts_key_value_groups_is_refused(tmp_path):
    own = mask(tmp_path, "both", [48, 12])
    rows = pd.read_parquet(tmp_path / "both.parquet").assign(structure="ffn")
    groups = pd.DataFrame({"layer": [0, 0, 1, 1], "unit": [0, 1, 0, 1], "keep": [True] * 3 + [False]})
    both = pd.concat([rows, groups.assign(structure="kv_groups")], ignore_index=True)
    (tmp_path / "both.parquet").unlink()
    artifacts.write_parquet(tmp_path / "both.parquet", both, "mask", {})
    with pytest.raises(InputError, match="cuts key-value groups: only whole models are timed with those"):
        run(tmp_path, own)


def test_a_whole_config_in_changes_needs_no_file(tmp_path):
    changes = {**tiny.SHAPE, "model_type": "llama", "num_hidden_layers": 3, "vocab_size": 50}
    stage.latency({**SETTINGS, "changes": changes}, tmp_path / "latency.csv")
    frame = pd.read_csv(tmp_path / "latency.csv")
    assert frame["parameters"][0] == sum(p.numel() for p in tiny.llama(3).parameters()) - 2 * (257 - 50) * 32


def test_changes_override_the_file_and_what_it_derived(tmp_path):
    """Qwen2 writes a layer_types of its layers, Llama a head_dim of its heads."""
    assert run(tmp_path, changes={"num_hidden_layers": 3})["parameters"][0] == sum(
        parameter.numel() for parameter in tiny.qwen2(3).parameters()
    )
    assert run(tmp_path, config=tiny.llama().config, changes={"hidden_size": 64})["parameters"][0] == sum(
        parameter.numel() for parameter in tiny.llama(hidden_size=64).parameters()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_tokens": 510}, r"prompt_tokens \+ decode_tokens: 510 \+ 3 .* max_position_embeddings 512"),
        ({"changes": {"model_type": "nonesuch"}}, "cannot build this architecture: .*nonesuch"),
        ({"changes": {"layer_types": ["full_attention"]}}, "cannot build this architecture: "),
        ({"changes": {"ffn_widths": [7, 7]}}, "give the dense model's config.json"),
        ({"config": GPT2Config(n_embd=8, n_layer=1, n_head=2)}, "architecture has no .*intermediate_size"),
        (
            {"config": MixtralConfig(**{**tiny.SHAPE, "vocab_size": 9}, num_hidden_layers=1)},
            "model type 'mixtral' cannot be pruned: it is a mixture of experts",
        ),
    ],
)
def test_unfit_settings_are_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, **changes)
    assert not (tmp_path / "latency.csv").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_refused_and_auto_is_the_cpu(tmp_path):
    with pytest.raises(InputError, match="device: cuda, but torch sees no GPU"):
        run(tmp_path, device="cuda")
    assert latency.choose_device("auto") == CPU


def test_unfit_masks_are_named(tmp_path):
    for widths, message in (
        ([7, 7, 7], "few.parquet: 3 FFN widths, .* num_hidden_layers 2"),
        ([7, 49], "few.parquet: FFN widths from 7 to 49 .* intermediate_size 48"),
    ):
        with pytest.raises(InputError, match=message):
            run(tmp_path, mask(tmp_path, "few", widths))
    good = mask(tmp_path, "good", [7, 7])
    for pairs in ((good, good), ("good",), (good.replace("good=", "dense="),)):
        with pytest.raises(InputError, match="--mask .*expected LABEL=PATH with a label of its own"):
            run(tmp_path, *pairs)


def test_a_missing_architecture_file_is_named(tmp_path):
    with pytest.raises(InputError, match="none.json"):
        stage.latency(SETTINGS, tmp_path / "latency.csv", tmp_path / "none.json")
    (tmp_path / "broken.json").write_text(json.dumps({})[:-1])
    with pytest.raises(InputError, match="broken.json"):
        stage.latency(SETTINGS, tmp_path / "latency.csv", tmp_path / "broken.json")

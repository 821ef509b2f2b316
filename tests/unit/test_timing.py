"""Timing: what is built and counted, that models take turns, and the tables; never how fast a machine is.

Most tests put a false clock in the place of the true one: a model's seconds follow from its weights.
"""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import timing as stage
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, MixtralConfig

import tiny
from pruning.analysis import shapes, timing
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.methods import variants
from pruning.methods.compact import Pruning
from pruning.models.checkpoint import Checkpoint
from pruning.models.structures import ffn, kv_groups

FAMILIES = {"qwen2": tiny.qwen2, "llama": tiny.llama}
CLOCK = {"prompt_tokens": 8, "decode_tokens": 3, "rounds": 3, "warmup": 1, "seed": 0}
CHANCE = {"confidence": 0.95, "resamples": 200}
LATENCY = {"clock": "latency", "shape": "tiny", "config": None, "sparsities": [50], "padded": [], "dtype": "float32"}
LATENCY |= {"device": "cpu", **CLOCK, **CHANCE}
SPEEDUPS = [f"{part}_speedup{end}" for part in ("prefill", "decode") for end in ("", "_low", "_high")]
MEASURED = [*("prefill_s", *SPEEDUPS[:3], "decode_tokens_per_s", *SPEEDUPS[3:], "peak_memory_mb")]


@pytest.fixture(params=FAMILIES)
def config(request):
    return FAMILIES[request.param]().config


def timed(settings: dict, output, parts: dict[str, dict]) -> None:
    """Run the stage on variants, by name, of these parts."""
    stage.timing(settings, output, [json.dumps({"variant": label, **own}, default=str) for label, own in parts.items()])


def weights(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture
def clock(monkeypatch):
    """A false clock: microseconds as many as weights, ten times as many a token. Returns the models timed, in order."""
    log = []

    def once(model, prompt, decode_tokens):
        log.append(model)
        seconds = weights(model) / 1e6
        return {"prefill_s": seconds, "decode_s": 10 * decode_tokens * seconds, "peak_memory_mb": float(len(log))}

    monkeypatch.setattr(timing, "_once", once)
    return log


# Shapes: operations and models


def flops_of(model, tokens: int) -> float:
    """What torch counts, but for the upper triangle of attention's scores: of T^2, (T + 1) / 2T are causal."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=torch.zeros(1, tokens, dtype=torch.long), logits_to_keep=1)
    counts = counter.get_flop_counts()["Global"]
    scores = counts.pop(torch.ops.aten.bmm)
    return sum(counts.values()) + scores * (tokens + 1) / (2 * tokens)


@pytest.mark.parametrize("changes", [{}, {"head_dim": 16}, {"num_key_value_heads": 4}])
def test_flops_are_what_torch_counts(changes):
    narrow = shapes.narrowed(tiny.llama(attn_implementation="eager", **changes), {"ffn": (48, 5)})
    assert shapes.prefill_flops(narrow, 10) == flops_of(narrow, 10)


def test_models_share_everything_but_what_is_cut(config):
    dense = shapes.build(config, "bfloat16")
    owned = {p.untyped_storage().data_ptr() for p in dense.parameters()}
    both = shapes.narrowed(dense, {"ffn": (24, 7), "kv_groups": (2, 1)})
    for narrow in (shapes.narrowed(dense, {"ffn": (24, 7)}), both):
        assert {p.untyped_storage().data_ptr() for p in narrow.parameters()} <= owned  # no memory of its own
        assert all(p.is_contiguous() and not p.requires_grad for p in narrow.parameters()) and not narrow.training
        own, whole = dict(narrow.named_parameters()), dict(dense.named_parameters())
        cut = (".mlp.",) if narrow is not both else (".mlp.", "_proj.")
        assert {name for name in own if own[name] is not whole[name]} == {n for n in own if any(p in n for p in cut)}
        assert [site.in_features for site in ffn.sites(narrow)] == [24, 7]
        assert {parameter.dtype for parameter in own.values()} == {torch.bfloat16}
        assert narrow(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
    assert [site.in_features for site in ffn.sites(dense)] == [48, 48]
    assert [site.in_features for site in kv_groups.sites(both)] == [32, 16]


def test_weights_are_ordinary_numbers(config):
    """As in memory that was never written nothing would be."""
    for model in (dense := shapes.build(config, "float32"), shapes.narrowed(dense, {"ffn": (24, 7)})):
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
    dense = shapes.build(config, "float32")
    assert dense.num_parameters() == Checkpoint(base).parameters
    assert shapes.narrowed(dense, {"ffn": widths}).num_parameters() == Checkpoint(tmp_path / "compact").parameters


def test_a_model_that_was_pruned_before_has_the_units_it_is_to_have():
    before = shapes.narrowed(tiny.qwen2(), {"ffn": (30, 48)})
    before.config.ffn_widths = [30, 48]
    for widths in ([20, 20], [30, 40]):
        assert [site.in_features for site in ffn.sites(shapes.narrowed(before, {"ffn": widths}))] == widths


# The clock


def test_speedup_is_the_median_of_paired_ratios():
    """The machine slows down tenfold between repetitions: unpaired medians would say 20/4 = 5."""
    assert timing.speedup([2, 20, 60], [1, 4, 40], 0.95, 100, 0)[0] == 2


def test_interval_is_the_bootstraps():
    rng = np.random.default_rng(1)
    times = rng.uniform(1, 2, 30)
    ratios = rng.normal(1.5, 0.1, 30)
    median, low, high = timing.speedup(times * ratios, times, 0.5, 4000, 0)
    medians = np.median(rng.choice(ratios, (4000, 30)), axis=1)
    assert low < median < high
    assert (low, high) == pytest.approx(np.quantile(medians, [0.25, 0.75]), abs=0.005)
    assert (low, high) == timing.speedup(times * ratios, times, 0.5, 4000, 0)[1:]


def test_intervals_of_few_repetitions_hold_the_median_and_one_has_none():
    for seed in range(5):
        median, low, high = timing.speedup(*np.random.default_rng(seed).lognormal(size=(2, 3)), 0.95, 200, seed)
        assert low <= median <= high
    assert timing.speedup([3, 4], [3, 4], 0.95, 50, 0) == (1, 1, 1)
    median, low, high = timing.speedup([3], [2], 0.95, 50, 0)
    assert median == 1.5 and np.isnan([low, high]).all()


def test_one_repetition_is_a_prefill_and_tokens_one_by_one_after_it(config, monkeypatch):
    """By a clock that only the model moves: half a second a token. Greedy tokens are those of whole forwards."""
    model, now, seen = shapes.build(config, "float32"), [0.0], []

    def count(_, args, given):
        assert given["logits_to_keep"] == 1
        seen.append(given["input_ids"])
        now[0] += 0.5 * given["input_ids"].shape[1]

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    monkeypatch.setattr(timing, "timer", lambda: now[0])
    once = {**CLOCK, "prompt_tokens": 6, "decode_tokens": 4, "rounds": 1, "warmup": 0}
    samples = timing.measure({"dense": model}, once)
    hook.remove()
    assert samples[["prefill_s", "decode_s"]].to_numpy().tolist() == [[3.0, 2.0]]
    assert samples["peak_memory_mb"].isna().all()
    assert [ids.shape[1] for ids in seen] == [6, 1, 1, 1, 1]
    text = torch.cat(seen, dim=1)
    assert model(text).logits.argmax(-1)[0, 5:-1].tolist() == text[0, 6:].tolist()


def test_models_take_turns_in_changing_order(clock):
    dense = tiny.qwen2()
    models = {"a": dense} | {n: shapes.narrowed(dense, {"ffn": [width] * 2}) for n, width in (("b", 24), ("c", 7))}
    settings = {**CLOCK, "rounds": 12, "warmup": 2}
    samples = timing.measure(models, settings)
    assert len(clock) == (12 + 2) * 3
    assert samples["round"].tolist() == [number for number in range(12) for _ in models]
    orders = samples.groupby("round")["variant"].agg("".join)
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert {order[0] for order in orders} == {"a", "b", "c"}
    found = samples.groupby("variant")["prefill_s"].unique().map(list).to_dict()
    assert found == {name: [weights(model) / 1e6] for name, model in models.items()}
    again, other = timing.measure(models, settings), timing.measure(models, settings | {"seed": 1})
    assert again["variant"].tolist() == samples["variant"].tolist() != other["variant"].tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_peak_memory_on_a_gpu_is_the_models_own():
    dense = shapes.build(tiny.qwen2(hidden_size=1024, intermediate_size=8192).config, "float32", "cuda")
    models = {"dense": dense, "narrow": shapes.narrowed(dense, {"ffn": (4096, 4096)})}
    peaks = timing.measure(models, CLOCK).groupby("variant")["peak_memory_mb"].max()
    for name, model in models.items():
        assert 4 * weights(model) / 1e6 < peaks[name] < 4 * weights(model) / 1e6 + 30


def test_figures_are_the_repetitions_medians():
    """Dense 2, 4, 9 s and half of it 1, 4, 3 s; decoding takes ten times as long."""
    tables = {
        name: pd.DataFrame({"prefill_s": s, "decode_s": 10 * np.array(s), "peak_memory_mb": [100, 102, 101]})
        for name, s in {"dense": [2.0, 4, 9], "half": [1.0, 4, 3]}.items()
    }
    dense, half = (timing.timings(own, tables["dense"], {**CLOCK, **CHANCE}) for own in tables.values())
    assert list(half) == MEASURED
    assert (dense["prefill_s"], half["prefill_s"]) == (4, 3)
    assert (dense["decode_tokens_per_s"], half["decode_tokens_per_s"]) == (3 / 40, 3 / 30)
    assert [half[f"{part}_speedup"] for part in ("prefill", "decode")] == [2, 2] and dense["prefill_speedup"] == 1
    assert half["peak_memory_mb"] == 102


# One shape (`latency`)


def run(folder, masks=None, dense=None, **changes) -> pd.DataFrame:
    """masks: label -> FFN widths, and key-value groups of each layer where they are cut. dense: another config."""
    base = tiny.save(tiny.qwen2(), folder / "base")
    if dense is not None:
        dense.save_pretrained(base)
    given = {"dense": {"model": base, "manifest": base / "manifest.json"}}
    for label, (widths, *groups) in (masks or {}).items():
        mask = tiny.write_mask(folder / f"{label}.parquet", tiny.keeps(*widths, groups=groups[0] if groups else ()))
        given[label] = {**given["dense"], "mask": mask}
    timed({**LATENCY, **changes}, folder / "latency.csv", {} if changes.get("config") else given)
    return pd.read_csv(folder / "latency.csv")


def flops_with(**units) -> int:
    return shapes.prefill_flops(shapes.narrowed(tiny.qwen2(), units), 8)


def test_a_shapes_table_has_a_row_a_variant(tmp_path):
    frame = run(tmp_path, masks={"rku": ([48, 12],)}, sparsities=[50, 25])
    assert list(frame) == [
        *("shape", "variant", "sparsity", "device", "dtype", "threads", "prompt_tokens", "decode_tokens", "rounds"),
        *("parameters", *MEASURED[:4], "flop_ratio", *MEASURED[4:]),
    ]
    assert frame["variant"].tolist() == ["dense", "uniform/50", "uniform/25", "rku"]
    assert frame["sparsity"].tolist() == [0, 0.5, 0.25, 0.375]
    assert frame["parameters"].tolist() == [weights(tiny.qwen2()) - removed * 3 * 32 for removed in (0, 48, 24, 36)]
    assert frame.loc[0, [*SPEEDUPS, "flop_ratio"]].tolist() == [1] * 7
    flops = [flops_with(ffn=widths) for widths in ([48, 48], [24, 24], [36, 36], [48, 12])]
    assert frame["flop_ratio"].tolist() == pytest.approx([flops[0] / other for other in flops], rel=1e-5)
    for part in ("prefill", "decode"):
        low, median, high = (frame[f"{part}_speedup{end}"] for end in ("_low", "", "_high"))
        assert ((low > 0) & (low <= median) & (median <= high)).all()
    assert set(frame["shape"]) == {"tiny"} and frame["device"].str.len().min() > 0
    assert frame["peak_memory_mb"].isna().all()


def test_equal_widths_are_measured_once_and_padded_ones_are_the_widest(tmp_path, clock):
    cut = {"a": [24, 24], "b": [7, 9], "c": [7, 9], "padded": [7, 24]}
    masks = {name: (widths,) for name, widths in cut.items()}
    frame = run(tmp_path, masks=masks, sparsities=[0, 50], padded=["padded"])
    assert len({id(model) for model in clock}) == 3  # dense, uniform/50 and b
    frame = frame.set_index("variant")
    assert frame.index.tolist() == ["dense", "uniform/0", "uniform/50", "a", "b", "c", "padded"]
    for same in (["dense", "uniform/0"], ["uniform/50", "a", "padded"], ["b", "c"]):
        assert len(frame.loc[same].drop_duplicates()) == 1
    assert len(frame.drop_duplicates()) == 3
    ratios = frame["parameters"].max() / frame["parameters"]
    assert frame["prefill_speedup"].tolist() == pytest.approx(ratios.tolist(), rel=1e-5)


def test_key_value_groups_that_are_cut_are_timed_and_counted(tmp_path, clock):
    frame = run(tmp_path, masks={"both": ([48, 12], [(1, 0), (1, 1)])}).set_index("variant")
    whole = weights(tiny.qwen2())
    assert frame["parameters"]["both"] == whole - 36 * 3 * 32 - (2 * 32 * 16 + 2 * 32 * 8 + 16 + 2 * 8)
    bound = flops_with() / flops_with(ffn=[48, 12], kv_groups=[1, 2])
    assert frame["flop_ratio"]["both"] == pytest.approx(bound, rel=1e-5)


def test_a_shape_of_the_configs_own_needs_no_model(tmp_path, clock):
    frame = run(tmp_path, config={**SHAPE, "num_hidden_layers": 3, "vocab_size": 50})
    assert frame["parameters"][0] == weights(tiny.llama(3)) - 2 * (257 - 50) * 32


SHAPE = {**tiny.SHAPE, "model_type": "llama", "num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_tokens": 510}, r"prompt_tokens \+ decode_tokens: 510 \+ 3 .* max_position_embeddings 512"),
        ({"config": {**SHAPE, "model_type": "nonesuch"}}, "cannot build this architecture: .*nonesuch"),
        ({"config": {**SHAPE, "layer_types": ["full_attention"]}}, "cannot build this architecture: "),
        ({"config": {**SHAPE, "ffn_widths": [7, 7]}}, "give the dense model's config.json"),
        ({"dense": GPT2Config(n_embd=8, n_layer=1, n_head=2)}, "architecture has no .*intermediate_size"),
        (
            {"dense": MixtralConfig(**{**tiny.SHAPE, "vocab_size": 9}, num_hidden_layers=1)},
            "this is for FFN neurons, and the model is a mixture of experts",
        ),
        ({"masks": {"few": ([7, 7, 7],)}}, "few.parquet: not a mask of .*: layer widths "),
    ],
)
def test_unfit_shapes_are_named(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, **changes)
    assert not (tmp_path / "latency.csv").exists()


def test_too_long_a_prompt_for_memory_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(timing, "_once", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(InputError, match="out of memory with `latency.prompt_tokens: 8`: lower it, or take a smaller"):
        run(tmp_path)


# Numbers of units (`latency_table`)


def table_of(folder, **changes) -> pd.DataFrame:
    settings = {"clock": "latency_table", "dtype": "float32", "device": "cpu", **CLOCK, "rounds": 5, **changes}
    timed(settings, folder / "table.parquet", {"dense": {"model": folder, "manifest": folder / "manifest.json"}})
    return artifacts.read_parquet(folder / "table.parquet", "latency_table")


@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma3_text", "phi3"])
def test_operations_of_a_number_of_units_are_what_torch_counts(tmp_path, family, clock):
    dense = tiny.of_family(family, attn_implementation="eager")
    dense.config.save_pretrained(tmp_path)
    rows = table_of(tmp_path)
    groups = [] if family == "phi3" else [1, 2]
    assert rows["structure"].tolist() == ["ffn"] * 17 + ["kv_groups"] * len(groups)
    assert rows["units"].tolist() == [*range(0, 49, 3), *groups]
    for row in rows.itertuples():
        assert row.flops == flops_of(shapes.narrowed(dense, {row.structure: [row.units] * 2}), 8), row


def test_times_are_ratios_to_the_dense_models_in_its_median(tmp_path, monkeypatch):
    """The machine is three times as slow in the second repetition: unpaired medians would show that."""
    tiny.qwen2().config.save_pretrained(tmp_path)

    def measure(models, settings):
        rows = []
        for number, slow in enumerate([1, 3, 1]):
            for name, model in models.items():
                size = sum(site.in_features for site in (*ffn.sites(model), *kv_groups.sites(model)))
                late = 1e6 * (number == 2 and name != "dense")  # a hiccup
                rows.append({"round": number, "variant": name, "prefill_s": size * slow + late, "decode_s": 6 * slow})
        return pd.DataFrame(rows)

    monkeypatch.setattr(timing, "measure", measure)
    rows = table_of(tmp_path).set_index(["structure", "units"])
    assert rows["decode"].unique().tolist() == [2]  # of three tokens
    assert rows["prefill"]["ffn", 48] == rows["prefill"]["kv_groups", 2] == 2 * (48 + 32)
    assert rows["prefill"]["ffn", 12] == 2 * (12 + 32) and rows["prefill"]["kv_groups", 1] == 2 * (48 + 16)


def test_of_a_pruned_model_the_whole_shape_is_measured(tmp_path):
    """A further iteration is of a model that has its widest layer everywhere. By the true clock."""
    raw = {**json.loads(tiny.qwen2().config.to_json_string(use_diff=False)), "ffn_widths": [40, 48], "auto_map": {}}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    rows = table_of(tmp_path)
    assert rows["units"].tolist() == [*range(0, 49, 3), 1, 2]
    assert (rows[["flops", "prefill", "decode"]] > 0).all(axis=None)
    assert artifacts.read_provenance(tmp_path / "table.parquet")["settings"].keys() >= {"device", "threads", "rounds"}
    with pytest.raises(InputError, match="511 [+] 3 is longer"):
        table_of(tmp_path, prompt_tokens=511)


def test_a_config_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match="config.json"):
        table_of(tmp_path)
    assert not list(tmp_path.glob("*.parquet"))


# The very models of tables (`tradeoff`)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """The dense model; cut evenly, on disk and twice in memory; unevenly; with a bias."""
    folder = tmp_path_factory.mktemp("family")
    base = tiny.fetched(folder / "base", tiny.qwen2())
    dense = variants.Parts(base, base / "manifest.json")
    masks = {
        name: tiny.write_mask(folder / name, tiny.keeps(*own)) for name, own in {"a": (20, 20), "b": (7, 31)}.items()
    }
    even, uneven = (replace(dense, mask=mask) for mask in masks.values())
    bias = replace(even, compensate="bias", evidence=tiny.write_statistics(folder / "statistics.parquet"))
    return {"dense": dense, "c/rku/50": even, "c/agf/50": even, "c/flap/50": uneven, "c/biased/50": bias}


def test_every_model_is_timed_and_equal_shapes_once(family, tmp_path, clock):
    parts = {label: {k: v for k, v in vars(own).items() if v is not None} for label, own in family.items()}
    settings = {"clock": "tradeoff", "model": "tiny", "dtype": "float32", **CLOCK, **CHANCE}
    timed(settings, tmp_path / "speed.csv", parts)
    made = pd.read_csv(tmp_path / "speed.csv").set_index("variant")
    assert list(made) == [
        *("model", "parameters", "bytes", "timed", "device", "dtype", "threads", "prompt_tokens", "decode_tokens"),
        *("rounds", *MEASURED),
    ]
    assert made["timed"].to_dict() == {label: label for label in parts} | {"c/agf/50": "c/rku/50"}
    pairs = [{weights(model) for model in clock[start : start + 8]} for start in (0, 8, 16)]  # one after the other
    of = made["parameters"]
    assert pairs == [{of["dense"], of[label]} for label in ("c/rku/50", "c/flap/50", "c/biased/50")]
    assert (made["prefill_speedup"] - of["dense"] / of).abs().max() < 1e-5
    assert (made["decode_tokens_per_s"] * of / 1e5 - 1).abs().max() < 1e-5
    with pytest.raises(InputError, match=r"prompt_tokens \+ decode_tokens: 510 \+ 3 is longer"):
        timed(settings | {"prompt_tokens": 510}, tmp_path / "none.csv", parts)


@pytest.mark.parametrize("label", ["c/rku/50", "c/flap/50", "c/biased/50"])
def test_what_is_cut_in_memory_has_the_outline_and_the_bytes_of_what_is_written(family, tmp_path, label):
    own = family[label]
    own.pruning.write(folder := tmp_path)
    on_disk = variants.Parts(folder, folder / "none.json")
    assert on_disk.outline() == own.outline()
    [file] = Checkpoint(folder).files
    assert on_disk.stored() == file.stat().st_size
    assert own.stored() == pytest.approx(file.stat().st_size, rel=0.02)  # headers

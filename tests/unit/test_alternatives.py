"""Prune, quantise, or take the smaller model: what each pruned model is held against, by hand; the table and figure."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_config import edited, refusal
from test_gguf import VOCABULARY, byte_level
from test_tables import accuracy_samples, perplexity_samples

import tiny
from pruning.analysis import alternatives
from pruning.config import alternatives as config_of
from pruning.config.validation import validate
from pruning.core import artifacts
from pruning.core.errors import InputError
from pruning.core.names import DENSE, Variant
from pruning.models import gguf
from pruning.report import catalogue
from pruning.report.figures import alternatives as figure
from pruning.report.files import Files
from pruning.report.tables import alternatives as table

METRIC = "exact_match,strict-match"
ENTRY = {"task": "t", "tuning": None, "metrics": [METRIC], "kind": "accuracy", "title": "Sums"}
TEXT = {"task": "w", "tuning": None, "metrics": ["perplexity"], "kind": "perplexity", "title": "Text"}
SETTINGS = {"confidence": 0.95, "resamples": 200, "seed": 0}
PRUNED = Variant("c", "rku", 30)
Q4, Q2 = Variant(type="q4_0"), Variant(type="q2_k")
RIGHT = {
    ("m", DENSE): range(50),
    ("m", Q4): range(1, 49),
    ("m", Q2): range(20, 44),
    ("m", PRUNED): range(45),
    ("m", Variant("c", "rku", 30, type="q4_0")): range(5, 44),
    ("s", DENSE): range(10, 46),
    ("s", Q4): range(10),
}
"""Which of 60 items each row answers rightly."""
BYTES = dict(zip(RIGHT, (1000, 300, 200, 800, 240, 500, 150), strict=True))


def samples(alias: str, variant: Variant) -> pd.DataFrame:
    own = accuracy_samples(RIGHT[alias, variant])
    return own.assign(item_hash="other prompt") if alias == "s" else own


def compared(entry=ENTRY, samples=samples, cost="size", sizes=BYTES) -> pd.DataFrame:
    candidates = {row: {"bytes": size, "parameters": 1} for row, size in sizes.items()}
    frame, outcomes = alternatives.rows("m", candidates, samples, entry, SETTINGS)
    return alternatives.against_best(frame, outcomes, cost, entry["kind"], SETTINGS)


def exact(ours, other) -> float:
    """McNemar's exact p from the items themselves."""
    gained, lost = len({*ours} - {*other}), len({*other} - {*ours})
    return stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0


def test_each_pruned_model_meets_the_best_alternative_that_is_not_larger():
    found = compared()
    # 800 bytes: of 300, 200, 500 and 150 the dense model in 4 bits is best; of at most 240 that in 2 bits.
    assert found["alternative"].dropna().to_dict() == {3: 1, 4: 2}
    rows = list(RIGHT.values())
    p = [exact(rows[3], rows[1]), exact(rows[4], rows[2])]
    assert found["alternative_p_value"].dropna().tolist() == pytest.approx(p)
    assert found["alternative_p_holm"].dropna().tolist() == pytest.approx([max(2 * min(p), p[0]), 2 * min(p)])
    assert found["alternative_delta"].dropna().tolist() == pytest.approx([-3 / 60, 15 / 60])
    against_dense = [exact(own, rows[0]) for own in rows[1:]]
    assert np.isnan(found["p_value"][0]) and found["p_value"][1:].tolist() == pytest.approx(against_dense)
    assert found["delta"][1:].tolist() == pytest.approx([(len(own) - 50) / 60 for own in rows[1:]])
    assert found["front"].tolist() == ["front", "front", "front", "near", "front", "near", "front"]


def test_a_hundredth_more_is_not_more_and_without_any_there_is_none():
    assert compared(sizes=BYTES | {("m", Q4): 805})["alternative"][3] == 1
    assert compared(sizes=BYTES | {("m", Q4): 820})["alternative"][3] == 5  # the sibling, with 36 of them
    nothing = compared(sizes=BYTES | dict.fromkeys([("m", Q2), ("s", Q4)], 400))
    assert np.isnan(nothing["alternative"][4]) and np.isnan(nothing["alternative_p_holm"][4])


def test_at_equal_speed_an_alternative_that_is_not_clearly_slower_counts():
    times = {row: {"bytes": 1, "parameters": 1, "decode_speedup": 1.0} for row in RIGHT}
    for row, (speed, half) in zip(
        times, [(1, 0), (1.45, 0.1), (3, 0.1), (1.5, 0.1), (2, 0.1), (1, 0), (3, 0)], strict=True
    ):
        times[row] |= {f"decode_speedup{end}": speed + by for end, by in (("", 0), ("_low", -half), ("_high", half))}
    frame, outcomes = alternatives.rows("m", times, samples, ENTRY, SETTINGS)
    found = alternatives.against_best(frame, outcomes, "decode", "accuracy", SETTINGS)
    assert found["alternative"].dropna().to_dict() == {3: 1, 4: 2}
    times["m", Q4]["decode_speedup_high"] = 1.39  # clearly slower than 1.5 ± 0.1
    frame, outcomes = alternatives.rows("m", times, samples, ENTRY, SETTINGS)
    assert alternatives.against_best(frame, outcomes, "decode", "accuracy", SETTINGS)["alternative"][3] == 2


def test_low_perplexities_are_the_good_ones_and_other_tokens_are_refused():
    nats = dict(zip(RIGHT, (2.0, 2.1, 3.0, 2.2, 2.6, 2.05, 3.5), strict=True))

    def texts(alias, variant):
        return perplexity_samples(nats[alias, variant])

    found = compared(TEXT, texts)
    assert found["alternative"].dropna().to_dict() == {3: 5, 4: 2}  # the sibling has 500 bytes and 2.05 nats
    assert found["alternative_delta"][3] > 0 > found["alternative_delta"][4]

    def others(alias, variant):
        return texts(alias, variant).assign(item_hash="tokens") if alias == "s" else texts(alias, variant)

    with pytest.raises(InputError, match="w: s/dense splits the text into other tokens than m, and perplexities"):
        compared(TEXT, others)


def test_other_items_are_refused():
    def fewer(alias, variant):
        return samples(alias, variant).head(59 if alias == "s" else 60)

    with pytest.raises(InputError, match="t: m/dense and s/dense were scored on different items .1 of 60"):
        compared(samples=fewer)


@pytest.mark.parametrize(
    ("kind", "stored", "odd"),
    [("q2_k", "Q4_0", 1), ("q2_k", "Q3_K", 0), ("q4_0", "Q4_0", 0), (None, "F16", 0), ("iq4_xs", "IQ4_NL", 1)],
)
def test_types_that_fall_back(kind, stored, odd):
    assert alternatives.falls_back(kind, stored) == odd


# the table


def written(place: Path, speed: bool) -> Files:
    """Artefacts of all rows."""
    for (alias, variant), size in BYTES.items():
        path = place / f"{alias}-{variant}.parquet"
        artifacts.write_parquet(path, samples(alias, variant), "samples", {})
        stored = {None: "F16", "q4_0": "Q4_0", "q2_k": "Q4_0"}[variant.type]
        record = {"bytes": size * 10**6, "parameters": 10**6, "tensors": {"F32": 9, stored: 5, "Q8_0": 1}}
        stem = f"{alias}-{variant.unquantised}-{variant.type or 'f16'}"
        artifacts.write_json(place / f"{stem}.json", record, "gguf", {})
        ratio = 1000 / size
        times = {f"{part}_speedup{end}": [1, ratio] for part in ("prefill", "decode") for end in ("", "_low", "_high")}
        times |= {"file": ["dense", "other"], "prefill_s": [0.5, 0.5 / ratio], "decode_tokens_per_s": [10, 10 * ratio]}
        times |= {"memory_mb": [1100, size], "llama_cpp": "0.3", "device": "cpu", "threads": 2}
        times |= {"prompt_tokens": 64, "decode_tokens": 8, "rounds": 5}
        artifacts.write_csv(place / f"{stem}.csv", pd.DataFrame(times), {})
    named = {"samples": "{model}-{variant}.parquet", "files": "{model}-{variant}-{type}.json"}
    named |= {"speed": "{other}-{variant}-{type}.csv"} if speed else {}
    return Files([f"{name}={place}/{template}" for name, template in named.items()])


def of_table(costs) -> dict:
    variant = {"calib": "c", "method": "rku", "sparsity": 30, "tuning": None, "type": None}
    own = {"name": "x", "title": "X", "models": ["m"], "siblings": ["s"], "calibrations": ["c"], "variants": [variant]}
    own |= {"types": [None, "q4_0"], "costs": costs, "tasks": {"t": ENTRY}, "quantised_before": ["m"], "twins": {}}
    return own | SETTINGS


def test_the_table_at_equal_bytes(tmp_path):
    page = table.make(written(tmp_path, False), of_table(["size"]))
    rows = [line.split("|")[1:-1] for line in page.markdown.splitlines() if line[:2] == "| "]
    lines = [[cell.strip() for cell in row] for row in rows]
    assert lines[0][:4] == ["Model", "Sums", "Difference from dense", "p"] and lines[0][4] == "File (MB)"
    assert [line[0] for line in lines[1:]] == [
        *("dense, unquantised", "`rku`, 30%, unquantised", "`s`, unquantised", "dense, Q4_0", "`rku`, 30%, Q4_0"),
        "`s`, Q4_0",
    ]
    assert lines[2][4:6] == ["800.0", "dense, Q4_0"] and lines[2][6].startswith("−5.0 [")
    assert lines[5][5] == "`s`, Q4_0" and lines[5][6].startswith("+48.3 [") and lines[5][7] == "< 0.001"
    assert lines[1][2] == lines[1][5] == ""
    assert "Made from a file that was quantised already: `m`." in page.markdown and "llama.cpp (" not in page.markdown
    assert page.frame["alternative"].dropna().tolist() == ["dense, Q4_0", "`s`, Q4_0"]
    assert page.frame["bytes"].is_monotonic_decreasing and set(page.frame["calib"]) == {"c"}


def test_the_table_at_equal_speed_has_the_dense_models_times_from_its_turns(tmp_path):
    page = table.make(written(tmp_path, True), of_table(["prefill", "decode"]))
    dense = page.frame[page.frame["label"] == "dense, unquantised"]
    own = dense[["prefill_s", "prefill_speedup", "decode_tokens_per_s", "memory_mb"]].to_numpy().tolist()
    assert own == [[0.5, 1, 10, 1100]] * 2
    assert page.frame["cost"].tolist() == ["prefill"] * 6 + ["decode"] * 6
    assert "a prompt of 64 tokens, then 8 one at a time; medians of 5 rounds" in page.markdown
    settings = {"task": "t", "tuning": None, "title": "Sums", "kind": "accuracy", "models": ["m"]}
    drawn = figure.draw({"rows": page.frame}, settings)
    [size, prefill, _] = [axis for part in drawn.subfigs for axis in part.axes]
    joined = [line for line in size.lines if line.get_linestyle() != "None"]
    xs = sorted(tuple(line.get_xdata()) for line in joined)
    assert xs == [(150, 500), (240, 800), (300, 1000)]  # megabytes: sibling, pruned, dense
    points = [line.get_marker() for line in prefill.lines if line.get_marker() in "os"]
    assert points == ["s", "o"] * 3  # Q4_0 and F16 of each model
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["dense", "RKU, 30%", "s", "f16", "q4_0"]


def test_one_pair_of_files_is_timed(tmp_path):
    """One pruned model in one type: a table of one row of the dense model's times."""
    files, settings = written(tmp_path, True), of_table(["prefill"]) | {"types": [None], "siblings": []}
    timed = table.make(files, settings).frame.set_index("label")["prefill_s"]
    assert timed["dense, unquantised"] == 0.5 and len(timed) == 2


def test_bits_per_byte_are_no_perplexity(tmp_path):
    page = table.make(written(tmp_path, True), of_table(["prefill", "decode"]))
    entry = {**TEXT, "kind": "bits", "metrics": ["bits_per_byte"]}
    [said, *_] = table.notes(page.frame, "size", entry, {}, of_table(["size"]))
    assert said.startswith(
        "Text: bits per byte, lower is better, with a 95% t interval; tests are paired t over blocks"
    )
    settings = {"task": "t", "tuning": None, "title": "Text", "kind": "bits", "models": ["m"]}
    drawn = figure.draw({"rows": page.frame}, settings)
    assert drawn.subfigs[0].axes[0].get_ylabel() == "Text\nbits per byte"


def test_a_difference_in_bits_per_byte_has_as_many_decimals_as_they_have():
    row = {"delta": -0.003, "delta_low": -0.0046, "delta_high": -0.0004, "p_holm": 0.0008}
    cell, _ = table._difference(row, "", "bits")
    assert (cell.value, cell.interval) == ("−0.003", "[−0.005, +0.000]")
    cell, _ = table._difference(row, "", "perplexity")
    assert (cell.value, cell.interval) == ("+0.00", "[+0.00, +0.00]")


def test_notes_say_who_answered_and_that_some_models_stopped_early(tmp_path):
    page = table.make(written(tmp_path, False), of_table(["size"]))
    by_harness, by_llama_cpp = "evaluated as what its file holds", "A row with a type is answered by llama.cpp"
    assert by_harness in page.markdown and by_llama_cpp not in page.markdown and "n = 60)" in page.markdown
    rows = page.frame.assign(n=[60, 20, 60, 60, 60, 60])
    said = " ".join(table.notes(rows, "size", ENTRY, {}, of_table(["size"]), by_llama_cpp=True))
    assert by_llama_cpp in said and by_harness not in said
    assert "n = 60, of models that `stop_early` stopped the first 20)" in said


def test_files_that_hold_another_kind_than_their_type_are_named(tmp_path):
    files = written(tmp_path, False)
    page = table.make(files, of_table(["size"]) | {"types": [None, "q4_0"]})
    assert "no whole blocks" not in page.markdown
    settings = of_table(["size"]) | {"types": [None, "q2_k"], "siblings": []}
    odd = Variant("c", "rku", 30, type="q2_k")
    artifacts.write_parquet(tmp_path / f"m-{odd}.parquet", samples("m", PRUNED), "samples", {})
    record = {"bytes": 200, "parameters": 1, "tensors": {"Q4_0": 2}}
    artifacts.write_json(tmp_path / "m-c/rku/30-q2_k.json", record, "gguf", {})
    assert "larger types of blocks of 32: Q2_K as Q4_0, in most" in table.make(files, settings).markdown


def test_answers_of_llama_cpp_are_held_against_the_harnesss(tmp_path):
    """Of 60 questions llama.cpp was asked the first 20, in 4 bits; one answer of these is another."""
    files = written(tmp_path, False)
    for alias, variant in [row for row in BYTES if row != ("m", Q2)]:
        other = samples(alias, variant).head(20)
        other.loc[0, "prediction"] = "8" if variant.type else "7"
        artifacts.write_parquet(tmp_path / f"{alias}-{variant}-x.parquet", other, "samples", {})
        own = samples(alias, variant)
        artifacts.write_parquet(tmp_path / f"{alias}-{variant}-t.parquet", own, "samples", {})
    settings, asked = of_table(["size"]), {**ENTRY, "task": "x", "title": "in llama.cpp"}
    settings |= {"tasks": {"t": ENTRY, "x": asked}, "twins": {"x": "t"}}
    files.named["samples"] = [f"{tmp_path}/{{model}}-{{variant}}-{{task}}.parquet"]
    page = table.make(files, settings)
    assert page.markdown.count("the same answer to so many") == 1
    assert "of these 20 questions: dense, Q4_0 95.0%; `rku`, 30%, Q4_0 95.0%" in page.markdown
    shares = page.frame.dropna(subset="equal_answers").set_index("label")["equal_answers"]
    assert len(shares) == 6 and shares["dense, unquantised"] == 1 and shares["dense, Q4_0"] == 0.95


# the configuration

TABLE = {"title": "T", "tasks": ["gsm_symbolic"], "sparsities": [30], "methods": ["even"], "reference": "dense"}
TABLE["paper"] = None
EVEN = {"score": "wanda", "round_to": 32}
SIBLING = {"source": {"kind": "local", "path": "resources/tiny-reasoner"}}


def mine(**changes) -> dict:
    return edited({"methods|even": EVEN, "models|small": SIBLING, "tables|mine": TABLE | changes})


def test_what_a_table_with_alternatives_makes():
    made = validate(mine(quantised=["q8_0", "q4_k_m", "q8_0", "f16"], siblings=["small"]))
    assert made.table("mine").types == [None, "q8_0", "q4_k_m"] and "small" in made.models_used
    entries = catalogue.tables(made)
    assert {"mine", "mine-bytes", "mine-speed"} <= {*entries} and "mine-alternatives" in catalogue.figures(made)
    files, root = entries["mine-speed"].files, "results/tiny-reasoner"
    assert len(files["samples"]) == len(files["files"]) == 9 and len(files["speed"]) == 8
    assert f"{root}/eval/gsm_symbolic-s0/even/30.q4_k_m/gsm_symbolic.samples.parquet" in files["samples"]
    assert f"{root}/quantised/dense/f16.json" in files["files"]
    assert f"{root}/speed/small/dense/q8_0.csv" in files["speed"]
    assert entries["mine-bytes"].files["speed"] == [] and "speed" not in entries["mine-bytes"].templates
    assert "quantised" not in entries["mine"].settings
    plain = catalogue.tables(validate(mine()))
    assert "mine-bytes" not in plain and plain["mine"] == entries["mine"]


REFUSED = {
    "tables.mine.quantised.0: Input should be 'f16', 'bf16', 'q8_0'": {"quantised": ["q9"]},
    "tables.mine.siblings: unknown name 'other'; declared: small, tiny-reasoner": {"siblings": ["other"]},
    "tables.mine.siblings: tiny-reasoner is a model of this table already": {"siblings": ["tiny-reasoner"]},
    "tables.mine.quantised: q4_k_m stores 256 values of a row together, and wanda keeps multiples of 1 neurons": {
        "quantised": ["f16", "q4_k_m"],
        "methods": ["even", "wanda"],
    },
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_a_row_is_refused(said):
    assert said in refusal(mine(**REFUSED[said]))


def test_other_refusals():
    taken = edited({"methods|even": EVEN, "tables|mine": TABLE | {"quantised": ["q8_0"]}, "tables|mine-bytes": TABLE})
    assert "tables.mine: makes results/mine-bytes as well, and that name is taken" in refusal(taken)
    vllm = mine(quantised=["q8_0"], siblings=["small"])
    vllm["models"]["small"] = SIBLING | {"backend": "vllm"}
    assert "models.small.backend: tables.mine evaluates the values of GGUF files" in refusal(vllm)
    validate(mine(quantised=["f16"], methods=["even", "wanda"]))  # has no blocks


def test_questions_that_llama_cpp_answers_are_found():
    changes = {"definition": "gsm_symbolic", "backend": "llama_cpp", "limit": 5}
    settings = mine(quantised=["q8_0"], tasks=["gsm_symbolic", "checked", "arithmetic"])
    settings["tasks"]["checked"] = settings["tasks"]["gsm_symbolic"] | changes
    assert catalogue.tables(validate(settings))["mine-bytes"].settings["twins"] == {"checked": "gsm_symbolic"}
    settings["tables"]["mine"]["tasks"].remove("gsm_symbolic")
    assert catalogue.tables(validate(settings))["mine-bytes"].settings["twins"] == {"checked": None}


def local(place: Path, tokens=None, **changes) -> dict:
    model = tiny.save(tiny.qwen2(vocab_size=VOCABULARY, **changes), place)
    (tokens or byte_level("qwen2")).save_pretrained(model)
    return {"source": {"kind": "local", "path": str(model)}}


def test_a_method_that_removes_no_neurons_needs_no_blocks():
    small = {"quantised": ["q8_0"], "methods": ["even", "small"], "sparsities": None}
    for removed in (0, 30):
        taken = mine(**small, at={"even": 30, "small": removed})
        taken["methods"]["small"] = {"score": "wanda", "vocabulary": 600}
        if not removed:
            validate(taken)
    with pytest.raises(InputError, match="small keeps multiples of 1 neurons"):
        validate(taken)


def test_a_mixtures_experts_keep_their_width_and_need_no_blocks(tmp_path):
    tiny.save(tiny.of_family("qwen3_moe"), tmp_path / "moe")
    source = {"source": {"kind": "local", "path": str(tmp_path / "moe")}}
    taken = edited({"tables|mine": TABLE | {"models": ["moe"], "methods": ["rku"], "quantised": ["q8_0"]}})
    taken["models"]["moe"] = source
    validate(taken)
    taken["tables"]["mine"]["methods"] = ["narrow_wanda"]
    with pytest.raises(InputError, match="narrow_wanda keeps multiples of 1 neurons, .* set `round_to: 32` of"):
        validate(taken)
    taken["tables"]["mine"] |= {"models": ["tiny-reasoner"], "methods": ["rku"]}
    with pytest.raises(InputError, match="and rku keeps multiples of 1 neurons"):
        validate(taken)


def test_models_that_are_there_are_looked_at_before_any_job(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf, "find_spec", lambda _: "llama-cpp-python is there")

    def checked(changes: dict, **models) -> None:
        settings = edited({"methods|even": EVEN, "tables|mine": TABLE | changes})
        settings["models"] |= models
        config_of.check_models(validate(settings))

    model, same = local(tmp_path / "model"), local(tmp_path / "same", seed=1)
    other, odd = local(tmp_path / "other", byte_level("gpt-2")), local(tmp_path / "odd", hidden_size=40)
    texts = {"models": ["model"], "quantised": ["q8_0", "q4_k_m"], "tasks": ["gsm_symbolic", "gsm_symbolic_text"]}
    checked(texts | {"siblings": ["same"]}, model=model, same=same)
    checked(texts | {"siblings": ["other"], "tasks": ["gsm_symbolic"]}, model=model, other=other)
    said = r"tables.mine.siblings: other has another tokenizer than model, .* or gsm_symbolic_text"
    with pytest.raises(InputError, match=said):
        checked(texts | {"siblings": ["other"]}, model=model, other=other)
    per_byte = {"methods|even": EVEN, "tables|mine": TABLE | texts | {"siblings": ["other"]}}
    settings = edited(per_byte | {"tasks|gsm_symbolic_text|per": "byte"})
    settings["models"] |= {"model": model, "other": other}
    config_of.check_models(validate(settings))
    said = r"tables.mine.quantised: q8_0: rows of odd have 40 values, which are no whole blocks of 32"
    with pytest.raises(InputError, match=said):
        checked(texts | {"models": ["odd"]}, odd=odd)

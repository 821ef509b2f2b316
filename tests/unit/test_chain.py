"""What was edited, swapped or replaced is refused by whoever reads it, and found by `verify`."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import verify
from hypothesis import given
from hypothesis import strategies as st

import tiny
from pruning.core import artifacts, chain
from pruning.core.artifacts import record_of
from pruning.core.errors import InputError
from pruning.models.loading import load

MASK = pd.DataFrame({"layer": [0, 0, 1, 1], "unit": [0, 1, 0, 1], "keep": [True, False, True, True]})


@pytest.fixture
def results(tmp_path: Path, monkeypatch) -> Path:
    """Scores, a mask made from them, and a model with a manifest made from the mask."""
    monkeypatch.chdir(tmp_path)
    for method, shift in (("wanda", 0.0), ("rku", 1.0)):
        chain.inputs.clear()
        scores = MASK.assign(keep=MASK["keep"] + shift).rename(columns={"keep": "score"})
        artifacts.write_parquet(scores_of(method), scores, "scores", {})
        artifacts.read_parquet(scores_of(method), "scores")
        artifacts.write_parquet(mask_of(method), MASK, "mask", {"sparsity": 40})
    chain.inputs.clear()
    artifacts.read_parquet(mask_of("wanda"), "mask")
    model = tiny.save(tiny.qwen2(), Path("results/m/compact/c/wanda/40/model"))
    (model / "recipe.json").write_text('{"provenance": {"kind": "reasoner", "schema": 1}}')  # as the embedded model has
    content = {"files": artifacts.directory_hashes(model), "widths": [1, 2]}
    artifacts.write_json(model.parent / "manifest.json", content, "compact", {})
    chain.inputs.clear()
    return tmp_path / "results"


def scores_of(method: str) -> Path:
    return Path(f"results/m/scores/c/{method}.parquet")


def mask_of(method: str) -> Path:
    return Path(f"results/m/masks/c/{method}/40.parquet")


MODEL = Path("results/m/compact/c/wanda/40/model")
MANIFEST = MODEL.parent / "manifest.json"


def found(capsys) -> str:
    """What verify says, if it finds a mistake."""
    with pytest.raises(SystemExit):
        verify.verify()
    return capsys.readouterr().out


def rewritten(path: Path, change) -> None:
    """The table changed by somebody who keeps its metadata."""
    table = pq.read_table(path, partitioning=None)
    frame = change(table.to_pandas())
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False).cast(table.schema), path)


def test_untouched_results_are_whole(results, capsys):
    verify.verify()
    assert "5 artefacts, 6 files of models and moments, 3 links: 0 mistakes" in capsys.readouterr().out


SPEED = pd.DataFrame({"variant": ["dense", "c/wanda/40"], "prefill_speedup": [1.0, 1.5]})
CSV, OTHER_CSV = Path("results/mine/speed/m.csv"), Path("results/mine/speed/n.csv")
TEXT, AS_MADE, HASH = CSV.with_suffix(".md"), Path("as_made.csv"), "0" * 64


@pytest.fixture
def csv(results) -> None:
    for path, frame in ((CSV, SPEED), (OTHER_CSV, SPEED[:1])):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".md").write_text("| dense |")
        artifacts.write_csv(path, frame, {}, beside=[path.with_suffix(".md")])
    shutil.copy(CSV, AS_MADE)


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


WANDA, CHANGED = mask_of("wanda"), "was changed after it was made; delete it"
TAMPERED = {  # what is done, how the file is read, and what is said
    "rows shuffled": (lambda: rewritten(WANDA, lambda frame: frame.iloc[[1, 0, 2, 3]]), "mask", f"{WANDA}: {CHANGED}"),
    "a row less": (lambda: rewritten(WANDA, lambda frame: frame.iloc[:3]), "mask", f"{WANDA}: {CHANGED}"),
    "another method's scores": (
        lambda: shutil.copyfile(scores_of("rku"), scores_of("wanda")),
        "scores",
        f"{scores_of('wanda')}: is results/m/scores/c/rku.parquet, put in another's place",
    ),
    "an edited manifest": (lambda: edited(MANIFEST, "[\n    1,", "[\n    2,"), "model", f"{MANIFEST}: {CHANGED}"),
    "a digit": (lambda: edited(CSV, "1.5", "2.5"), "csv", f"{CSV}: {CHANGED}"),
    "cut": (lambda: CSV.write_text(CSV.read_text()[:30]), "csv", f"{CSV}: {CHANGED}"),
    "a text beside a CSV": (lambda: TEXT.write_text("| dens |"), "text", f"{TEXT}: {CHANGED}"),
    "another CSV": (lambda: shutil.copy(OTHER_CSV, CSV), "csv", f"{CSV}: {CHANGED}"),
    "another CSV, with its record": (
        lambda: [shutil.copy(OTHER_CSV, CSV), shutil.copy(record_of(OTHER_CSV), record_of(CSV))],
        "csv",
        f"{record_of(CSV)}: is {record_of(OTHER_CSV)}, put in another's place",
    ),
    "a CSV and its record": (
        lambda: [edited(CSV, "1.5", "2.5"), edited(record_of(CSV), artifacts.file_hash(AS_MADE), HASH)],
        "csv",
        f"{record_of(CSV)}: {CHANGED}",
    ),
}
READ = {
    "mask": lambda: artifacts.read_parquet(WANDA, "mask"),
    "scores": lambda: artifacts.read_parquet(scores_of("wanda"), "scores"),
    "model": lambda: load(MODEL, "float32", "cpu"),
    "csv": lambda: artifacts.read_csv(CSV),
    "text": lambda: artifacts.read_beside(TEXT),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_tampered_with_is_refused(csv, capsys, name):
    tamper, kind, words = TAMPERED[name]
    tamper()
    with pytest.raises(InputError, match=words):
        READ[kind]()
    assert f"error: {words}" in found(capsys)


def test_a_replaced_weight_file_is_refused_also_after_it_was_found_right(results, capsys):
    load(MODEL, "float32", "cpu")
    weights = MODEL / "model.safetensors"
    before, whole = weights.stat(), weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"\0\0\0\0")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match="model.safetensors: is not the file that .*manifest.json records"):
        load(MODEL, "float32", "cpu")
    assert "model.safetensors: is not the file" in found(capsys)
    weights.unlink()
    with pytest.raises(InputError, match="model.safetensors: no such file, but"):
        load(MODEL, "float32", "cpu")


def test_files_known_to_be_right_are_not_read_again(results, monkeypatch):
    load(MODEL, "float32", "cpu")
    monkeypatch.setattr(chain.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    chain.check_files(MODEL, MANIFEST, artifacts.read_json(MANIFEST, "compact"))


def test_what_was_made_from_other_inputs_is_found(results, capsys):
    artifacts.write_parquet(scores_of("wanda"), MASK.rename(columns={"keep": "score"}).assign(unit=7), "scores", {})
    assert f"error: {mask_of('wanda')}: was made from another {scores_of('wanda')}" in found(capsys)


def test_a_csv_comes_back_and_its_origin_is_recorded(csv, capsys):
    pd.testing.assert_frame_equal(artifacts.read_csv(CSV), SPEED)
    assert artifacts.read_beside(TEXT) == "| dense |"
    verify.verify()
    CSV.unlink()  # its record alone is no mistake: the next run writes both
    verify.verify()
    assert capsys.readouterr().out.count("7 artefacts, 6 files of models and moments, 3 links: 0 mistakes") == 2


def test_a_csv_without_its_record_is_refused(csv):
    record_of(CSV).unlink()
    with pytest.raises(InputError, match="m.csv: lacks m.csv.json, which says how it was made; delete it and run"):
        artifacts.read_csv(CSV)


def test_a_bit_that_flips_on_disk_is_found_by_verify_alone(results, capsys):
    """Neither sizes nor times tell of it: that is what is promised of files once found right."""
    load(MODEL, "float32", "cpu")
    weights = MODEL / "model.safetensors"
    whole = bytearray(weights.read_bytes())
    whole[-1] ^= 1
    weights.write_bytes(whole)
    chain.remember(MODEL, MANIFEST, artifacts.read_json(MANIFEST, "compact")["files"])  # as if no time had changed
    load(MODEL, "float32", "cpu")
    assert "model.safetensors: is not the file" in found(capsys)


def test_a_file_that_the_manifest_does_not_record_is_refused(results):
    (MODEL / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(InputError, match="chat_template.jinja: .*manifest.json does not record it; .* move it away"):
        load(MODEL, "float32", "cpu")


def test_deleted_inputs_are_no_mistake(results, capsys):
    scores_of("wanda").unlink()
    shutil.rmtree(MODEL)
    verify.verify()
    assert "4 artefacts, 0 files of models and moments, 2 links: 0 mistakes" in capsys.readouterr().out


def test_a_broken_file_is_found(results, capsys):
    mask_of("rku").write_bytes(mask_of("rku").read_bytes()[:50])
    MANIFEST.write_text('{"provenance"')
    said = found(capsys)
    assert "error: results/m/masks/c/rku/40.parquet: not a whole" in said and "manifest.json: not a whole file" in said


def test_places_are_below_the_last_results_and_not_of_temporary_names():
    assert chain.place(Path("/home/results/x/results/m/a.json")) == "results/m/a.json"
    assert chain.place(Path("results/m/.base.x1y2.tmp/manifest.json")) == "results/m/base/manifest.json"
    assert chain.place(Path("/tmp/elsewhere/a.json")) is None


def test_the_settings_and_inputs_of_an_artefact_are_recorded(results):
    origin = artifacts.read_provenance(mask_of("wanda"))
    assert origin["place"] == str(mask_of("wanda"))
    assert origin["inputs"] == {str(scores_of("wanda")): artifacts.read_provenance(scores_of("wanda"))["digest"]}


VALUES = st.one_of(
    st.lists(st.one_of(st.none(), st.integers(-(2**60), 2**60))),
    st.lists(st.one_of(st.none(), st.floats(allow_nan=False))),
    st.lists(st.one_of(st.none(), st.booleans())),
    st.lists(st.one_of(st.none(), st.text())),
    st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(0, 9))))),
    st.lists(st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.one_of(st.none(), st.text())})),
)


@given(VALUES)
def test_a_digest_survives_the_file_and_its_layout(tmp_path_factory, values):
    table, path = pa.table({"x": values}), tmp_path_factory.getbasetemp() / "digest.parquet"
    pq.write_table(table, path, row_group_size=2)
    halves = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert chain.digest(pq.read_table(path)) == chain.digest(table) == chain.digest(halves)


@given(VALUES, VALUES)
def test_other_values_have_other_digests(first, second):
    first, second = pa.table({"x": first}), pa.table({"x": second})
    if len(first) == len(second) and json.dumps(first.to_pydict()) != json.dumps(second.to_pydict()):
        assert chain.digest(first) != chain.digest(second)


def test_strings_are_not_confused_by_where_they_end():
    assert chain.digest(pa.table({"x": ["ab", "c"]})) != chain.digest(pa.table({"x": ["a", "bc"]}))
    assert chain.digest(pa.table({"x": ["a"], "y": ["b"]})) != chain.digest(pa.table({"y": ["b"], "x": ["a"]}))
    assert chain.digest(pa.table({"x": np.zeros(2)})) != chain.digest(pa.table({"x": [None, 0.0]}))

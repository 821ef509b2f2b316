"""report/columns.yaml: that it describes every file, as the code that writes them lists their columns."""

import re

import pandas as pd
import pyarrow as pa
import pytest

from pruning.analysis import comparison
from pruning.calibration import columns as measured
from pruning.core import columns, names
from pruning.evaluation import samples
from pruning.paper.tables import ablation, table4, table5
from pruning.report.tables import alternatives, tradeoff
from workspace import ROOT

OBJECTIVE = ["<objective>"]
LISTED = {
    "{model}/calibration/{calib}/statistics.parquet": [
        *("layer", "unit", *measured.neuron_columns(OBJECTIVE)),
        *measured.expert_columns(OBJECTIVE),
    ],
    "{model}/calibration/{calib}/layers.parquet": ["layer", *measured.LAYER_COLUMNS],
    "{model}/calibration/{calib}/token_classes.parquet": [
        *("layer", "unit", "token_class"),
        *measured.token_class_columns(OBJECTIVE),
    ],
    "{model}/eval/{variant}/{task}.samples.parquet": samples.COLUMNS,
    "table4.csv": table4.COLUMNS,
    "table5.csv": [name for name in table5.COLUMNS if name != "prompt"],
    "ablation.csv": ablation.COLUMNS,
    "tradeoff.csv": [*tradeoff.COLUMNS, *(f"{cost}_front" for cost in tradeoff.COSTS)],
    "{table}-bytes.csv": [*alternatives.ROWS.split(), *alternatives.TIMES, *alternatives.COMPARED],
    "{table}.csv": comparison.COLUMNS,
}
ENTRIES = {entry.path: entry for entry in columns.entries()}


@pytest.mark.parametrize("path", LISTED)
def test_columns_are_those_that_the_code_lists(path: str):
    assert [column.name for column in ENTRIES[path].columns] == LISTED[path]


def test_every_parquet_and_csv_file_is_described():
    """Of all paths that the library names, and that the heads of rules list."""
    heads = "".join(file.read_text() for file in (ROOT / "rules").rglob("*.smk"))
    found = set(re.findall(r"^    results/(\S+\.(?:parquet|csv))\b", heads, re.M))
    places = [value for place in (vars(names), vars(names.Places())) for value in place.values()]
    places = [path for path in places if isinstance(path, str) and re.fullmatch(r"results/.*\.(csv|parquet)", path)]
    found |= {path.removeprefix("results/") for path in places}
    found = {path.replace("masks/{variant}", "masks/{calib}/{method}/{sparsity}") for path in found}
    found.remove("{model}/calibration/{calib}/{label}.parquet")  # of these kinds:
    kinds = ["gisp", "rounds", "parameter_taylor", "attention", "attention_parameter_taylor"]
    found |= {names.of_kind(kind).removeprefix("results/") for kind in kinds}
    assert len(found) > 25
    assert {path for path in found if not columns.entry_of(path)} == set()


def test_units_and_meanings_are_given():
    for entry in columns.entries():
        for column in entry.columns:
            assert column.meaning and column.type in {*columns.ANY, "any", "list of number"}, (entry.path, column)
            assert column.unit or column.type not in {"number"}, (entry.path, column)


RIGHT = {"layer": {"integer", "number"}, "unit": {"integer", "number"}, "keep": {"boolean"}}
WRONG = {
    "another": (RIGHT | {"score": {"number"}}, "column score is not described"),
    "one less": ({"layer": RIGHT["layer"], "keep": RIGHT["keep"]}, "column unit is missing"),
    "another type": (RIGHT | {"keep": {"integer", "number"}}, "column keep is integer or number, not boolean"),
}
MASK = columns.entry_of("m/masks/c/wanda/50.parquet")


def test_a_file_as_described_has_no_mistakes():
    assert MASK.mistakes(RIGHT) == MASK.mistakes(RIGHT | {"structure": {"text"}}) == []
    assert columns.entry_of("data/d/test.parquet").mistakes({"anything": {"text"}}) == []


@pytest.mark.parametrize("what", WRONG)
def test_another_column_or_type_is_found(what: str):
    found, said = WRONG[what]
    assert MASK.mistakes(found) == [said]


PATHS = {
    **{"table1.csv": "{table}.csv", "mine/table1.csv": "{table}.csv", "mine/leakage/table1.csv": "leakage/{table}.csv"},
    **{"collapse.csv": "collapse.csv", "table1-bytes.csv": "{table}-bytes.csv", "a/b/table1.csv": None},
    "m/eval/c/rku/50/t/task.samples.parquet": "{model}/eval/{variant}/{task}.samples.parquet",
    "m/analysis/spectrum/c/40.summary.csv": "{model}/analysis/spectrum/{calib}/{sparsity}.summary.csv",
}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_looked_up_where_it_may_lie(path: str):
    entry = columns.entry_of(path)
    assert (entry and entry.path) == PATHS[path]


def test_types_are_read_from_files(tmp_path):
    table = pa.table({"a": [1, 2], "b": [0.5, None], "c": ["x", None], "d": [True, False], "e": [[1.0], []]})
    assert columns.of_table(table) == {
        **{"a": {"integer", "number"}, "b": {"number"}, "c": {"text"}, "d": {"boolean"}, "e": {"list of number"}}
    }
    frame = pd.DataFrame({"a": [1, None], "b": [0.5, 1], "c": ["x", None], "d": [True, None], "e": [None, None]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    found = {name: types - {"text"} for name, types in columns.of_csv(tmp_path / "x.csv").items()}
    assert found == {
        **{"a": {"integer", "number"}, "b": {"number"}, "c": set(), "d": {"boolean"}},
        "e": columns.ANY - {"text"},
    }

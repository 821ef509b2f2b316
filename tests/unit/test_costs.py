"""Costs, from benchmark files where the pipeline puts them."""

from pathlib import Path

import pytest

from pruning.analysis import costs
from pruning.config.methods import Method
from pruning.core import names
from pruning.core.errors import InputError
from pruning.methods.requirements import passes
from pruning.report.tables import costs as printed

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\tjobid\trule_name\tparams\n"
REST = "\t-" * 7 + "\t1\t"
PARAMS = """{'settings': '{"note": "it\'s \\\\"quoted\\\\""}'}"""


def write(folder: Path, place: str, rule: str, *runs: tuple) -> None:
    """A job's benchmark file, of (seconds, memory) per run."""
    path = folder / f"{place}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER + "".join(f"{s}\t0:00:01\t{rss}{REST}{rule}\t{PARAMS}\n" for s, rss in runs))


def test_sums_medians_and_peaks_of_the_last_runs(tmp_path: Path):
    write(tmp_path, "m/masks/c/a/40", "mask", (1, "-"))
    write(tmp_path, "m/masks/c/b/40", "mask", (9, 50), (3, 100))
    write(tmp_path, "m/base/manifest", "fetch_model", (12, 300))
    table = costs.summary(costs.read(tmp_path, [])).set_index("stage")
    assert table.index.tolist() == ["fetch_model", "mask"]  # the most expensive first
    assert table.loc["mask"].tolist() == [2, 4, 2, 3, 100, 0.25]  # without memory where the job was too short for it
    assert [cells for _, cells in printed.block(table.reset_index()).rows] == [
        ["1", "12", "75.0", "12.0", "12.0", "300"],
        ["2", "4", "25.0", "2.0", "3.0", "100"],
        ["3", "16", "100.0", "", "", ""],
    ]


def test_a_methods_models_take_what_it_is_made_of_its_scores_and_one_model(tmp_path: Path):
    jobs = {"calibration/c/shards/0-of-2": 10, "calibration/c/shards/1-of-2": 20, "calibration/c/second_moments": 400}
    jobs |= {"calibration/other/second_moments": 9999, "scores/c/obs": 3, "sensitivity/c/obs": 70, "masks/c/obs/40": 1}
    jobs |= {"refit/c/obs/40": 100, "compact/c/obs/40": 2, "masks/c/obs/60": 1, "refit/c/obs/60": 80}
    jobs |= {"scores/c/wanda": 5, "masks/c/wanda/40": 1, "latency_table": 7, "compact/c/small/40": 8}
    for number, (place, seconds) in enumerate(jobs.items()):
        write(tmp_path, place, "rule", (seconds, 100 + number))
    needed = {"obs": ["shards", "second_moments"], "wanda": ["shards"], "random": [], "timed": ["latency_table"]}
    table = costs.of_methods(tmp_path, "c", needed | {"small": needed["obs"]}, {"small": "obs"}).set_index("method")
    assert table.loc["obs"].tolist() == [430, 73, (103 + 81) / 2, 110]
    assert table.loc["wanda"].tolist() == [30, 5, 1, 112]
    assert table.loc["random"].tolist()[:3] == [0, 0, 0]
    # The same scores, masks and refits, its own models.
    assert table.loc["small"].tolist() == [430, 73, (101 + 8 + 81) / 2, 114]
    assert table.loc["timed"].tolist()[:3] == [7, 0, 0]  # one a model, in no calibration's folder


JOINT = {"score": "wanda", "allocate": "joint"}
OBS = ["second_moments", "output_gradients"]
ATTENTION = ["attention_second_moments", "attention_output_gradients"]


@pytest.mark.parametrize(
    ("method", "needed"),
    [
        ({"score": "obs", "allocate": "sensitivity", "compensate": "ridge_attention"}, OBS),
        ({"score": "parameter_taylor"}, ["parameter_taylor"]),
        ({"score": "parameter_taylor", "allocate": "joint"}, ["parameter_taylor", "attention_parameter_taylor"]),
        ({"score": "rounds"}, ["rounds"]),
        ({"score": "gisp"}, ["gisp"]),
        (JOINT, ["shards", "attention"]),
        ({"score": "obs", "allocate": "joint"}, [*OBS, *ATTENTION]),
        ({"score": "wanda", "compensate": "ridge"}, ["shards", "second_moments"]),
        (
            JOINT | {"allocate": "sensitivity_joint", "compensate": "ridge_attention"},
            ["shards", "attention", "second_moments", "attention_second_moments"],
        ),
        ({**JOINT, "allocate_options": {"per": "prefill"}}, ["shards", "attention", "latency_table"]),
    ],
)
def test_what_a_method_is_made_of(method: dict, needed: list[str]):
    assert passes(Method(**method)) == needed


def test_joint_jobs_of_an_earlier_configuration_do_not_count_and_no_benchmarks_are_an_error(tmp_path: Path):
    with pytest.raises(InputError, match="no benchmark files; run snakemake first"):
        costs.read(tmp_path, [])
    for number, place in enumerate(("a+b", "a+c", "together-1")):
        write(tmp_path, place, f"evaluate_together_{number}", (1, 5))
    write(tmp_path, "a", "evaluate", (1, 5))
    found = costs.read(tmp_path, ["a+b"]).to_dict("list")
    assert found == {"stage": ["evaluate"] * 2, "seconds": [1, 1], "memory_mb": [5, 5]}


def test_jobs_of_several_tasks_are_named_by_them():
    assert names.joined(["b", "a_1"]) == names.joined(["a_1", "b"]) == "a_1+b"
    many = [names.joined([f"a_task_of_a_long_name_{n}" for n in range(12)] + extra) for extra in ([], ["z"])]
    assert len(set(many)) == 2 and all(len(name) < 100 for name in many)

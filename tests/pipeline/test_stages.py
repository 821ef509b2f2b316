"""What rules/stages.smk adds to a stage's rule, and what it leaves as a rule or the command line says."""

import re

import pytest

from workspace import Workspace

OWN = """
rule mine:
    output: "mine.txt"
    shell: "touch {output}"
"""
FOLDER = "tiny-reasoner/calibration/gsm_symbolic-s0"
PLAIN = ("--default-resources", "mem_mb=5")
OVERRIDDEN = ("--set-resources", "fetch_dataset:mem_mb=77", "--set-threads", "calibrate_shard=2")


@pytest.fixture(scope="module")
def printed(tmp_path_factory) -> dict[tuple, dict[str, str]]:
    """Options of a dry-run -> rule -> what is printed of one of its jobs."""
    import tiny

    path = tmp_path_factory.mktemp("stages")
    tiny.save(tiny.qwen2(), path / "resources/model")
    own = Workspace(path)
    (path / "own.smk").write_text(OWN)
    with (path / "test.yaml").open("a") as config:
        config.write("\ncustom_rules: [own.smk]\n")
    found = {}
    for options in (PLAIN, OVERRIDDEN):
        done = own.snakemake("-n", "results/table1.csv", "mine.txt", *options)
        jobs = re.findall(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)*)", done.stdout + done.stderr, re.M)
        found[options] = dict(reversed(jobs))
    return found


@pytest.mark.parametrize(
    ("options", "rule", "expected"),
    [
        (PLAIN, "fetch_dataset", {"log": r"data/gsm_symbolic/\w+", "resources": "mem_mb=1000"}),
        (OVERRIDDEN, "fetch_dataset", {"log": r"data/gsm_symbolic/\w+", "resources": "mem_mb=77"}),
        (PLAIN, "calibrate_shard", {"log": f"{FOLDER}/shards/[01]-of-2", "resources": "mem_mb=1000.* gpu=0"}),
        (OVERRIDDEN, "calibrate_shard", {"log": f"{FOLDER}/shards/[01]-of-2", "threads": "2"}),
        (PLAIN, "merge_calibration", {"log": f"{FOLDER}/statistics", "resources": "mem_mb=1000"}),
        (PLAIN, "table", {"log": "table1", "resources": "mem_mb=2000"}),  # as the rule says
    ],
)
def test_what_a_stages_rule_does_not_say_is_added(printed, options, rule, expected):
    said, log = printed[options][rule], expected["log"]
    assert re.search(rf"^ *log: results/logs/{log}\.log$", said, re.M), said
    assert re.search(rf"^ *benchmark: results/benchmarks/{log}\.tsv$", said, re.M), said
    for name, value in list(expected.items())[1:]:
        assert re.search(rf"^ *{name}: .*\b{value}\b", said, re.M), said


def test_a_rule_of_the_users_own_stays_as_it_is(printed):
    said = printed[PLAIN]["mine"]
    assert "log:" not in said and "benchmark:" not in said and "gpu" not in said and "mem_mb=5" in said

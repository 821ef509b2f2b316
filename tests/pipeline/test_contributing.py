"""A stranger's walk: a score, a family and a figure are added by what CONTRIBUTING.md says, and nothing else."""

from pathlib import Path

import pandas as pd
import yaml

import tiny
from workspace import Workspace, code_below


def insert(path: Path, before: str, text: str) -> None:
    content = path.read_text()
    assert content.count(before) == 1
    path.write_text(content.replace(before, text + before))


def test_a_score(workspace: Workspace):
    code, entry = code_below("CONTRIBUTING.md", "A score, step by step")
    (workspace.path / "scripts/pruning/methods/scores/loudest.py").write_text(code)
    workspace.configure(yaml.safe_load(entry))
    target = "results/tiny-reasoner/masks/gsm_symbolic-s0/loudest/50.parquet"
    workspace.snakemake(target)
    keep = pd.read_parquet(workspace.path / target)
    calibration = workspace.path / "results/tiny-reasoner/calibration/gsm_symbolic-s0"
    measured = pd.read_parquet(calibration / "statistics.parquet")
    for layer in (0, 1):
        size = measured[measured["layer"] == layer].set_index("unit")["act_sum"].abs()
        kept = keep[(keep["layer"] == layer) & keep["keep"]]["unit"]
        assert set(kept) == set(size.nlargest(24).index)


def test_a_family(workspace: Workspace):
    (line,) = code_below("CONTRIBUTING.md", "A model family, step by step")
    tiny.save(tiny.of_family("helium", head_dim=8), workspace.path / "resources/helium")
    workspace.configure({"models.helium.source": {"kind": "local", "path": "resources/helium"}})
    target = "results/helium/compact/gsm_symbolic-s0/rku/50/manifest.json"
    refused = workspace.snakemake(target, check=False)
    assert "model type 'helium' cannot be pruned" in refused.stdout + refused.stderr
    families = workspace.path / "scripts/pruning/models/families.py"
    insert(families, "}\nMIXTURES", line)
    workspace.snakemake(target)
    assert '"widths": [\n    24,\n    24\n  ]' in (workspace.path / target).read_text()


def test_a_figure(workspace: Workspace):
    code, entry = code_below("CONTRIBUTING.md", "A figure, step by step")
    report = workspace.path / "scripts/pruning/report"
    (report / "figures/kept.py").write_text(code)
    insert(report / "catalogue.py", '    return made_in("report/figures", found', entry)
    workspace.snakemake("results/figures/kept.svg")
    assert (workspace.path / "results/figures/kept.png").stat().st_size > 5_000
    assert workspace.planned("paper")["figure"] == 8  # the others, and this one no more

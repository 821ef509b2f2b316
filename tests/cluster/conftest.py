"""One Slurm for all of these tests; they are skipped, with the reason, where there can be none."""

import pytest

import slurm
from workspace import Workspace


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    if reason := slurm.missing():
        pytest.skip(reason)
    made = slurm.Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def idle(cluster: slurm.Slurm) -> slurm.Slurm:
    """The cluster with nothing on it, whatever the test before has broken."""
    cluster.clear()
    return cluster


@pytest.fixture
def own(workspace: Workspace, request) -> Workspace:
    """A workspace with the rules that the test's module has in OWN."""
    (workspace.path / "own.smk").write_text(request.module.OWN)
    with (workspace.path / "test.yaml").open("a") as config:
        config.write("custom_rules: [own.smk]\n")
    return workspace

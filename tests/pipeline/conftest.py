"""Jobs of this folder's tests are forks of one process, but where a test wants real ones."""

import pytest

import workspace
import zygote


@pytest.fixture(scope="session", autouse=True)
def forking_jobs(tmp_path_factory):
    with zygote.serving(tmp_path_factory.mktemp("zygote") / "bin") as folder:
        workspace.FORKING.append(str(folder))
        yield
        workspace.FORKING.clear()

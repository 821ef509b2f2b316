"""Jobs of this folder's tests are forks of one process, but where a test wants real ones."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def forks_of_stages(forking):
    pass

"""One run at a time in a folder, also after one that was killed."""

import os
import subprocess
import sys

import pytest

from pruning.core import locks
from pruning.core.errors import InputError
from workspace import ROOT

HOLD = """
import pathlib, sys
from pruning.core import locks
locks.hold(pathlib.Path(sys.argv[1]))
print(1, flush=True)
sys.stdin.read()
"""


def test_a_second_run_is_refused_until_the_first_is_dead(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    run = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=-1, stdout=-1, env=environment)
    run.stdout.readline()
    assert locks.alive(tmp_path)
    with pytest.raises(InputError, match=f"another run is active in {tmp_path.parent}: wait"):
        locks.hold(tmp_path)
    run.kill()
    run.wait()
    assert not locks.alive(tmp_path)
    os.close(locks.hold(tmp_path))


def test_a_look_at_the_lock_and_the_room_does_not_free_it(tmp_path):
    held = locks.hold(tmp_path)
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks/0.input.lock").touch()
    locks.replace_snakemakes(tmp_path)
    assert locks.alive(tmp_path) and not list((tmp_path / "locks").iterdir())
    assert (tmp_path / "live").stat().st_size == 0
    os.close(held)

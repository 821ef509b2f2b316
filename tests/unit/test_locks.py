"""Locks of killed runs are cleared, those of live runs are not."""

import os
import subprocess
import sys

from pruning.core.locks import clear_stale
from workspace import ROOT

HOLD = """
import pathlib, sys
from pruning.core.locks import clear_stale
clear_stale(pathlib.Path(sys.argv[1]))
print(1, flush=True)
sys.stdin.read()
"""


def test_a_live_runs_lock_stays_and_a_killed_ones_goes(tmp_path):
    lock = tmp_path / "locks/0.input.lock"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    run = subprocess.Popen(command, stdin=-1, stdout=-1, env=environment)
    run.stdout.readline()
    lock.parent.mkdir()
    lock.touch()
    os.close(clear_stale(tmp_path))
    assert lock.exists()
    run.kill()
    run.wait()
    os.close(clear_stale(tmp_path))
    assert not lock.exists()


def test_two_live_runs_do_not_block_each_other(tmp_path):
    first, second = clear_stale(tmp_path), clear_stale(tmp_path)
    assert first is not None and second is not None
    os.close(first)
    os.close(second)

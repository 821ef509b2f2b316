"""What is installed: files that must agree, and which build of torch."""

import http.server
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from workspace import ROOT

CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"


def lines(name: str) -> list[str]:
    return [line for line in (ROOT / "envs" / name).read_text().splitlines() if line and not line.startswith("#")]


def packages(name: str) -> set[str]:
    return {line.split("=")[0].split(">")[0].split("[")[0].lower().replace("-", "_") for line in lines(name)}


@pytest.mark.parametrize("environment, first", [("cpu", [CPU_INDEX]), ("gpu", [])])
def test_conda_environments_hold_what_pip_installs(environment: str, first: list[str]):
    listed = yaml.safe_load((ROOT / f"envs/{environment}.yaml").read_text())["dependencies"][-1]["pip"]
    assert listed == [*first, *lines("requirements.txt")]


def test_the_lock_pins_what_is_required_and_leaves_torch_and_what_it_asks_for_to_pip():
    assert packages("requirements.txt") - packages("lock.txt") == {"torch"}
    assert packages("test.txt") - packages("lock.txt") == {"setuptools"}


def test_what_runs_imports_no_test_tool():
    imported = {
        line.split()[1].split(".")[0]
        for file in (ROOT / "scripts").rglob("*.py")
        for line in file.read_text().splitlines()
        if line.lstrip().startswith(("import ", "from "))
    }
    assert not imported & (packages("test.txt") - packages("requirements.txt"))


def options(folder: Path, code: str, **environment: str) -> str:
    """What envs/torch_index.py prints where no program is found, and so no nvidia-smi and no sbatch."""
    clean = {name: value for name, value in os.environ.items() if name != "TORCH_INDEX" and "proxy" not in name.lower()}
    command = [sys.executable, "-c", f"import sys; sys.platform = 'linux'; import torch_index as t; print(*{code})"]
    clean |= {"PATH": str(folder), "PYTHONPATH": str(ROOT / "envs"), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run(command, env=clean, capture_output=True, text=True, check=True).stdout.strip()


class Index(http.server.SimpleHTTPRequestHandler):
    """Lists torch, and nothing else."""

    def do_GET(self):
        self.send_response(200 if self.path == "/cpu/torch/" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def index():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_torch_for_cpus_where_there_is_no_device_and_the_index_answers(index: str, tmp_path: Path):
    asked = f"--extra-index-url {index}/cpu"
    assert options(tmp_path, f"t.options((), '{index}/cpu')") == asked
    assert options(tmp_path, f"t.options(('/dev/null',), '{index}/cpu')") == ""
    assert options(tmp_path, f"t.options((), '{index}/other')") == ""
    for program in ("nvidia-smi", "sbatch"):
        (tmp_path / program).symlink_to("/bin/true")
        assert options(tmp_path, f"t.options((), '{index}/cpu')") == ""
        (tmp_path / program).unlink()


def test_an_index_of_ones_own_or_none(tmp_path: Path):
    assert options(tmp_path, "t.options(('/dev/null',))", TORCH_INDEX="https://x.org/cu") == (
        "--extra-index-url https://x.org/cu"
    )
    assert options(tmp_path, "t.options(())", TORCH_INDEX="") == ""


def test_an_index_that_accepts_and_never_answers_is_given_up_soon(tmp_path: Path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        assert options(tmp_path, f"t.options((), 'http://127.0.0.1:{silent.getsockname()[1]}')") == ""
        assert time.monotonic() - begin < 8

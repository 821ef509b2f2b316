"""Jobs as forks of one process that has the libraries loaded: of a job on the tests' models, starting is the most.

`python` in the folder that `serving` gives is a client: it hands a stage's command line, folder, environment and output
to the server, which forks; everything else it passes on to the real one. Not for tests that kill jobs.
"""

import array
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLIENT = """#!{python} -SEs
import array, json, os, socket, sys
arguments = sys.argv[1:]
if not arguments or os.path.basename(os.path.dirname(arguments[0])) != "scripts" or arguments[0].endswith("launch.py"):
    os.execv({python!r}, [{python!r}, *arguments])
channel = socket.socket(socket.AF_UNIX)
channel.connect({address!r})
job = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
channel.sendmsg([len(job).to_bytes(8, "little")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
channel.sendall(job)
sys.exit((channel.recv(1) or bytes([137]))[0])
"""


@contextmanager
def serving(folder: Path) -> Iterator[Path]:
    """A folder to put first in PATH."""
    folder.mkdir(parents=True)
    address = str(folder / "socket")
    with subprocess.Popen([sys.executable, __file__, address]) as server:
        client = folder / "python"
        client.write_text(CLIENT.format(python=sys.executable, address=address))
        client.chmod(0o755)
        try:
            while not os.path.exists(address):
                time.sleep(0.1)
                assert server.poll() is None, "no server of jobs"
            yield folder
        finally:
            server.kill()


def serve(address: str) -> None:
    import lm_eval.evaluator  # noqa: F401 (and what else stages load)
    import lm_eval.models.huggingface  # noqa: F401
    import lm_eval.tasks  # noqa: F401
    import pandas  # noqa: F401
    import peft  # noqa: F401
    import pyarrow.dataset  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import pydantic.type_adapter  # noqa: F401
    import reasoning_gym  # noqa: F401
    import scipy.stats  # noqa: F401
    import seaborn  # noqa: F401
    import statsmodels.api  # noqa: F401
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401
    import typer._adapters  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen(16)
    os.rename(f"{address}.new", address)
    while True:
        channel, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            work(channel)
        channel.close()


def work(channel: socket.socket) -> None:
    head, ancillary, *_ = channel.recvmsg(8, socket.CMSG_SPACE(12))
    descriptors = array.array("i", ancillary[0][2])
    size, job = int.from_bytes(head, "little"), b""
    while len(job) < size:
        job += channel.recv(size - len(job))
    arguments, folder, environment = json.loads(job)
    for place, descriptor in enumerate(descriptors):
        os.dup2(descriptor, place)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode, closefd=False) for n, mode in enumerate("rww"))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    sys.path.insert(0, os.path.abspath(os.path.dirname(arguments[0])))
    code = 0
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    channel.sendall(bytes([code]))
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])

"""Python processes as forks of one that has the libraries loaded: of a job on the tests' models, starting is the most.

`python` in the folder that `serving` gives is a client: it hands a script, `-c` or one of MODULES with its arguments,
folder, environment, output and limit on the size of files to the server, which forks. Everything else it passes on to
the real python. In a fork sys.executable is the client, so what a fork starts is forked as well.

The library is loaded as well, from this checkout. A fork for a copy takes it for its own if all files are the same but
for comments, and else loads what is there.
"""

import array
import ast
import fcntl
import functools
import gc
import glob
import hashlib
import importlib
import importlib.metadata
import json
import marshal
import os
import re
import resource
import runpy
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import yaml
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
MODULES = ("snakemake", "pruning.command.line", "ipykernel_launcher")
"""What is started by `python -m` in a fork."""
LIBRARIES = (
    *("lm_eval.evaluator", "lm_eval.models.huggingface", "lm_eval.tasks", "pandas", "peft", "pyarrow.dataset"),
    *("pyarrow.parquet", "pydantic.type_adapter", "reasoning_gym", "requests", "rich.markdown", "rich.progress"),
    *("scipy.stats", "seaborn", "smart_open", "snakemake.cli", "snakemake.report.html_reporter", "statsmodels.api"),
    *("transformers.models.qwen2.modeling_qwen2", "typer._adapters", "yte"),
)
CLIENT = """#!{python} -SEs
import _socket, array, marshal, os, resource, sys  # what starts fastest
arguments = [argument for argument in sys.argv[1:] if argument != "-P"]
script, then = "".join(arguments[:1]), "".join(arguments[1:2])
forked = script.endswith(".py") and os.path.basename(script) != "launch.py"
if not forked and (script != "-m" or then not in {modules!r}) and (script != "-c" or "multiprocessing" in then):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
channel = _socket.socket(_socket.AF_UNIX)
channel.connect({address!r})
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
job = marshal.dumps((sys.argv[1:], os.getcwd(), dict(os.environ), limit))
open_files = array.array("i", [0, 1, 2, *(int(word[8:]) for word in sys.argv if word.startswith("/dev/fd/"))])
channel.sendmsg([len(job).to_bytes(8, "little")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, open_files)])
channel.sendall(job)
ended = channel.recv(1)
if not ended:
    os.kill(os.getpid(), 9)
sys.exit(ended[0])
"""


def serving(folder: Path, owner: int) -> Path:
    """A folder to put first in PATH, with `python` and the command `prune`, for as long as the process `owner` lives.

    All that ask for the same folder have the same server.
    """
    address, client, prune = str(folder / "socket"), folder / "python", folder / "prune"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not os.path.exists(address):
            client.write_text(CLIENT.format(python=sys.executable, address=address, modules=MODULES))
            prune.write_text(f'#!/bin/sh\nexec {client} -P -m pruning.command.line "$@"\n')
            for file in (client, prune):
                file.chmod(0o755)
            server = subprocess.Popen([sys.executable, __file__, address, str(client), str(owner)])
            while not os.path.exists(address):
                time.sleep(0.1)
                assert server.poll() is None, "no server of forks"
    return folder


def serve(address: str, client: str, owner: str) -> None:
    # In place of the tests folder: Snakemake looks for plug-ins once.
    sys.path[0] = str(SCRIPTS / "pruning/core/plugins")
    importlib.metadata.version = functools.cache(importlib.metadata.version)
    for name in LIBRARIES:
        importlib.import_module(name)
    from torch.utils import collect_env

    about = collect_env.get_pretty_env_info()  # what lm-eval asks `pip`, `gcc` and others for, at every evaluation
    collect_env.get_pretty_env_info = lambda: about
    sys.path.insert(0, str(SCRIPTS))
    files = library(SCRIPTS)
    for file in files:
        if not file.endswith("/vllm.py"):  # which sets variables of the environment
            importlib.import_module(file.removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
    del sys.path[0]
    warm_up(files, Path(address).with_name("parsed"))
    places = places_of_files()
    yaml.FullLoader = yaml.CFullLoader  # the same, ten times as fast: Snakemake reads the default at every start
    gc.freeze()  # a fork's collections would copy the memory of all that is loaded
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen(16)
    os.rename(f"{address}.new", address)
    listener.settimeout(5)
    while os.path.exists(f"/proc/{owner}"):
        try:
            channel, _ = listener.accept()
        except TimeoutError:
            continue
        with suppress(ChildProcessError):  # those that have ended are waited for, so that their time is counted
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            listener.close()
            sys.executable = client
            work(channel, files, places)
        channel.close()


def warm_up(files: dict[str, bytes], parsed: Path) -> None:
    """Do once what every fork would do anew, where it is remembered: it is most of a short job."""
    import snakemake.cli
    import snakemake.workflow
    from transformers import conversion_mapping

    from pruning.command import charts
    from pruning.config import definitions
    from pruning.core import artifacts, workflow

    parsed.mkdir()
    snakemake.workflow.parse = remembering(snakemake.workflow.parse, parsed)
    artifacts.versions()
    snakemake.cli.get_argument_parser()  # finds the plug-ins
    conversion_mapping.get_checkpoint_conversion_mapping("qwen2")  # compiles all patterns
    charts.library()
    for content in files.values():
        workflow.imported(content.decode())
    for task in Path("config/tasks").glob("*.yaml"):  # as a copy of this checkout calls them
        definitions.metric_names(task)
    for pattern, flags in patterns(parsed.with_name("patterns")):
        re.compile(pattern, flags)


def patterns(file: Path) -> list[tuple[str, int]]:
    """The regular expressions that a plan of everything compiles, in a process of its own: an eighth of its time."""
    known = set(re._cache)
    if (planning := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        with suppress(SystemExit), tempfile.TemporaryDirectory() as empty:
            arguments = ["-n", "--snakefile", str(ROOT / "Snakefile"), "--directory", empty, "--cores", "1", "paper"]
            take_library(SCRIPTS, {}, [], anew=True)  # it says where files are, as seen from a folder
            run(["-m", "snakemake", *arguments])
        found = [(text, flags) for kind, text, flags in re._cache if (kind, text, flags) not in known and kind is str]
        file.write_text(json.dumps(found))
        os._exit(0)
    os.waitpid(planning, 0)
    return json.loads(file.read_text())


def remembering(parse, folder: Path):
    """Snakemake's parser, whose answer for a file with the same content is read from this folder."""

    def own(path, workflow, linemap, overwrite_shellcmd=None, rulecount=0):
        name = path.get_path_or_uri(secret_free=False)
        asked = json.dumps([name, rulecount, overwrite_shellcmd, Path(name).read_text()])
        answer = folder / hashlib.sha256(asked.encode()).hexdigest()
        if not answer.exists():
            code, count = parse(path, workflow, linemap, overwrite_shellcmd, rulecount)
            new = answer.with_suffix(f".{os.getpid()}")
            new.write_text(json.dumps([code, count, list(linemap.items())]))
            new.rename(answer)
        code, count, lines = json.loads(answer.read_text())
        linemap.update(lines)
        return code, count

    return own


def work(channel: socket.socket, files: dict[str, bytes], places: list[tuple[ModuleType, str]]) -> None:
    channel = socket.socket(
        fileno=fcntl.fcntl(channel.fileno(), fcntl.F_DUPFD, 100)
    )  # out of the way of files' numbers
    head, ancillary, *_ = channel.recvmsg(8, socket.CMSG_SPACE(16))
    descriptors = array.array("i", ancillary[0][2])
    size, job = int.from_bytes(head, "little"), b""
    while len(job) < size:
        job += channel.recv(size - len(job))
    arguments, folder, environment, limit = marshal.loads(job)
    numbers = [0, 1, 2, *(int(word[8:]) for word in arguments if word.startswith("/dev/fd/"))]
    for number, descriptor in zip(numbers, descriptors, strict=True):
        os.dup2(descriptor, number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode, closefd=False) for n, mode in enumerate("rww"))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    code, noted = 0, environment.get("LOADED")
    try:
        take_library(place_of_library(arguments, environment), files, places, anew=bool(noted))
        run(arguments)
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
    if noted:
        note_modules(noted, arguments)
    channel.sendall(bytes([code % 256]))
    os._exit(code)


def place_of_library(arguments: list[str], environment: dict[str, str]) -> Path:
    """The folder of the package `pruning` that these arguments will import."""
    options = [argument for argument in arguments if argument != "-P"]
    if options[:2] == ["-m", "snakemake"] or options[0].endswith("/planned_jobs.py"):
        named = [file for option, file in zip(options, options[1:], strict=False) if option == "--snakefile"]
        return Path(*named[:1]).resolve().parent / "scripts" if named else Path.cwd() / "scripts"
    folder = Path(options[0]).resolve().parent
    beside = folder.parent if folder.name == "paper" else folder
    if options[0].startswith("-") or not (beside / "pruning").is_dir():
        return Path(environment.get("PYTHONPATH", "").split(os.pathsep)[0]).resolve()
    return beside


def library(place: Path) -> dict[str, bytes]:
    """Our Python files there -> their contents."""
    names = glob.glob("pruning/**/*.py", root_dir=place, recursive=True)
    return {name: (place / name).read_bytes() for name in names}


def places_of_files() -> list[tuple[ModuleType, str]]:
    """Modules of ours, and the names in them of paths of files in this checkout."""
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] == "pruning"]
    return [(module, name) for module in modules for name, value in vars(module).items() if moved(value, ROOT)]


def take_library(place: Path, files: dict[str, bytes], places: list[tuple[ModuleType, str]], anew: bool) -> None:
    """Make the modules that are loaded those of this place, or forget them where a file there is another one."""
    there = library(place)
    if anew or not all(same(there.get(file), files.get(file)) for file in {*there, *files}):
        for name in [name for name in sys.modules if name.split(".")[0] == "pruning"]:
            del sys.modules[name]
    elif place != SCRIPTS:
        for module, name in places:
            setattr(module, name, moved(vars(module)[name], place.parent))


def same(one: bytes | None, other: bytes | None) -> bool:
    """Whether two files are the same program: tests edit comments."""
    with suppress(SyntaxError, TypeError):  # TypeError: there is but one
        return one == other or ast.dump(ast.parse(one)) == ast.dump(ast.parse(other))
    return False


def moved(value: object, home: Path) -> str | Path | list | None:
    """A path in this checkout, or a package's list of them, as it is called in a copy; None of anything else."""
    if isinstance(value, list):
        return [moved(path, home) or path for path in value] if any(moved(path, home) for path in value) else None
    if isinstance(value, str | Path) and Path(str(value)[: len(str(ROOT)) + 1]) == ROOT:
        return type(value)(home / Path(value).relative_to(ROOT))
    return None


def note_modules(path: str, arguments: list[str]) -> None:
    """Add a line to a file: what was run, a stage or the module that it was told to run, and the modules of ours that
    this loaded."""
    told = [value for option, value in zip(arguments, arguments[1:], strict=False) if option in ("--maker", "--what")]
    script = f"scripts/pruning/{told[0]}.py" if told else arguments[0]
    own = [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "pruning"]
    with open(path, "a") as file:
        file.write(json.dumps([script, [os.path.relpath(name) for name in own if name]]) + "\n")


def run(arguments: list[str]) -> None:
    """What python does with these: `[-P] -m module …`, `[-P] -c program …` or `[-P] script.py …`."""
    safe = arguments[0] == "-P"
    first, *rest = arguments[safe:]
    if not safe:
        sys.path.insert(0, os.getcwd() if first in ("-m", "-c") else os.path.abspath(os.path.dirname(first)))
    if first == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(rest[0], {"__name__": "__main__"})  # noqa: S102
    elif first == "-m":
        sys.argv = rest
        if "." in rest[0]:
            sys.modules.pop(rest[0], None)  # a module of ours that is loaded already would be warned of
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    serve(*sys.argv[1:])

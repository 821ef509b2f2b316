"""The library's rooms, who imports whom, and what must be known in one place alone.

python tests/unit/test_rooms.py            counts the places, the arrows between them and the circles
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from pruning.core import workflow

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "scripts/pruning"
ORDER = [
    "core",
    "data",
    "models",
    "calibration",
    "methods",
    "evaluation",
    "analysis",
    "config",
    "report",
    "paper",
    "command",
]
PLUGINS = {
    *("methods/scores", "methods/allocation", "methods/compensation", "data/adapters", "models/pruned", "calibration"),
    "models/dequantised",
    *("methods/refit", "methods/rounds", "methods/sensitivity"),
    *(
        "evaluation/kinds",
        "evaluation/backends",
        "report",
        "report/tables",
        "report/figures",
        "report/pages",
        "paper",
        "paper/tables",
        "paper/figures",
        "paper/observe",
    ),
}
"""What is loaded by name: folders, of which rules hand code() the file that a setting names; or such a file."""
GROUPS = {"scores": "rules/score.smk"}
"""Entry points of other packages, `pruning.scores`, which the scores alone load; and the rule that has their files as
inputs."""
LONGEST = 340
PLACES, ARROWS = 34, 105  # api.py has six of the arrows


@cache
def imported(file: Path) -> set[Path]:
    """Files of ours that a file imports, wherever in it; of what it loads by name the folder."""
    if file == LIBRARY / "__init__.py":  # api.py is loaded where a program asks for a name: see the test of that
        return set()
    text = file.read_text(encoding="utf-8")
    names = named(text) - {f"pruning.{group}" for group in GROUPS}
    if file.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{file}: a relative import, which code() does not follow"
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    else:  # rules
        for module, given in re.findall(r"^ *from (\S+) import (.*)", text, re.M):
            names |= {f"{module}.{name.split()[0]}" for name in given.split(",")}
    return {found for name in names for found in places_of(name)} - {file}


def named(text: str) -> set[str]:
    """Modules of ours that strings name; of f-strings the beginning."""
    return set(re.findall(r"""["'](pruning(?:\.\w+)+)\.?["'{]""", text))


def places_of(name: str) -> Iterator[Path]:
    """The file of a module, or of a name in it, or the folder of a package."""
    parts = name.split(".")
    for depth in range(len(parts), 0, -1):
        stem = ROOT.joinpath("scripts", *parts[:depth])
        if stem.with_suffix(".py").is_file():
            yield stem.with_suffix(".py")
            return
        if (stem / "__init__.py").is_file():
            yield stem / "__init__.py"
            return


@cache
def files() -> list[Path]:
    """All Python files and rules, but for tests."""
    own = [path for folder in ("scripts", "rules", "benchmarks") for path in (ROOT / folder).rglob("*")]
    return [ROOT / "Snakefile", *sorted(path for path in own if path.suffix in (".py", ".smk"))]


def place(file: Path) -> str:
    """A folder directly below scripts/pruning, a file of scripts/, or another top-level folder of code."""
    top, *rest = file.relative_to(ROOT).parts
    if top != "scripts":
        return "rules" if top == "Snakefile" else top
    return f"pruning/{rest[1]}" if rest[0] == "pruning" else rest[0]


def arrows() -> set[tuple[str, str]]:
    """(place, another from which it imports)."""
    pairs = {(place(file), place(other)) for file in files() for other in imported(file)}
    return {pair for pair in pairs if len(set(pair)) > 1}


def circle(graph: dict[Path, set[Path]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [str(file.relative_to(ROOT)) for file in error.args[1]]
    return []


def test_rooms_know_only_those_before_them():
    assert {path.name for path in LIBRARY.iterdir() if path.is_dir()} - {"__pycache__"} == set(ORDER)
    levels = {f"pruning/{room}": number for number, room in enumerate([*ORDER, "api.py"])} | {"pruning/__init__.py": -1}
    upward = {(here, there) for here, there in arrows() if levels.get(here, 99) <= levels.get(there, 100)}
    assert not upward


def test_no_file_imports_itself_through_others():
    """What is loaded by name is left out: a plug-in may import the file that loads it."""
    assert not circle({file: {other for other in imported(file) if other not in by_name(file)} for file in files()})


def by_name(file: Path) -> set[Path]:
    return {other for name in named(file.read_text(encoding="utf-8")) for other in places_of(name)}


def test_the_package_loads_its_api_for_programs_alone():
    """Each stage imports the package's own file; so what that does for others must not become every stage's code, and
    no file of ours may ask the package for such a name, nor import api.py."""
    tree = ast.parse((LIBRARY / "__init__.py").read_text())
    loaded = [node for node in tree.body[1:] if "pruning" in ast.unparse(node) and "import" in ast.unparse(node)]
    assert [ast.unparse(node)[:16] for node in loaded] == ["if TYPE_CHECKING"]
    for file in files():
        if file.suffix == ".py":
            for node in ast.walk(ast.parse(file.read_text())):
                assert not isinstance(node, ast.Import) or "pruning" not in [alias.name for alias in node.names], file
                if isinstance(node, ast.ImportFrom) and node.module == "pruning":
                    asked = {alias.name for alias in node.names}
                    assert asked <= {*ORDER} or file == LIBRARY / "__init__.py" and asked == {"api"}, file
    assert {file for file in files() if LIBRARY / "api.py" in imported(file)} == set()


def test_what_a_program_imports_is_there_and_is_no_module():
    import pruning
    from pruning import api
    from pruning.command import prune

    assert pruning.__all__ == api.__all__ and {*api.__all__} <= {*dir(pruning)}
    for name in api.__all__:
        assert getattr(pruning, name) is getattr(api, name) and find_spec(f"pruning.{name}") is None
    assert pruning.prune is not prune and pruning.prune.__module__ == "pruning.api"
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        _ = pruning.prunes


def test_only_plug_ins_are_loaded_by_name():
    """Where code() cannot see what is imported, rules must say it."""
    for file in files():
        assert file.suffix != ".py" or not evasions(file.read_text(encoding="utf-8")), file


def evasions(text: str) -> list[str]:
    """Modules named by strings, and calls that import what no string names, but for plug-ins."""
    names = {name: name.removeprefix("pruning.").replace(".", "/") for name in named(text)}
    found = [name for name, place in names.items() if place not in PLUGINS | {*GROUPS}]
    for node in ast.walk(ast.parse(text)):
        called = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
        if called in ("import_module", "__import__") and not named(ast.unparse(node)):
            found.append(ast.unparse(node))
        if called == "entry_points" and ast.unparse(node) != "entry_points(group=GROUP)":
            found.append(ast.unparse(node))
    return found


def test_entry_points_are_loaded_in_one_place_and_their_files_are_inputs():
    asking = {file.relative_to(ROOT).as_posix() for file in files() if "entry_points(" in file.read_text()}
    assert asking == {f"scripts/pruning/methods/{group}/__init__.py" for group in GROUPS}
    for group, rule in GROUPS.items():
        assert f"{group}.origin(" in (ROOT / rule).read_text()


@pytest.mark.parametrize(
    "text, found",
    {
        "importlib.import_module('pruning.analysis.footprint')": ["pruning.analysis.footprint"],
        "name = 'pruning.core.names'": ["pruning.core.names"],
        "import_module(name)": ["import_module(name)"],
        "importlib.import_module(f'pruning.{name}')": ["importlib.import_module(f'pruning.{name}')"],
        "importlib.import_module(f'pruning.methods.{name}')": ["pruning.methods"],
        "importlib.import_module(f'pruning.methods.scores.{name}')": [],
        "importlib.util.find_spec('torch')": [],
        "metadata.entry_points(group='others')": ["metadata.entry_points(group='others')"],
    }.items(),
)
def test_imports_by_name_are_seen(text, found):
    assert evasions(text) == found


def test_rules_tell_code_of_every_plug_in():
    """In a rule, or in an entry of a catalogue, which the rules of tables and figures hand on."""
    text = "".join(file.read_text() for file in files() if file.suffix == ".smk" or file.name == "catalogue.py")
    assert {plugin for plugin in PLUGINS if not re.search(rf"""["']{plugin}["'/]""", text)} == set()


def test_code_follows_what_is_imported():
    """The workflow's own reading of a file (rules/common.smk) finds what this one does, but for plug-ins."""
    text = (ROOT / "rules/common.smk").read_text()
    own = {"SCRIPTS": str(ROOT / "scripts"), "imported": workflow.imported, "Path": Path, "cache": cache}
    exec(text[text.index("@cache\ndef imports") : text.index("@cache\ndef code")], own)  # noqa: S102
    for file in files():
        if file.suffix == ".py":
            assert imported(file) - by_name(file) <= {Path(found) for found in own["imports"](str(file))} | {file}, file
    assert own["imports"](str(LIBRARY / "__init__.py")) == set()


def test_places_and_arrows_become_no_more():
    assert len({place(file) for file in files()}) <= PLACES
    assert len(arrows()) <= ARROWS


def test_no_file_is_long():
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files()}
    assert {str(file): length for file, length in lengths.items() if length > LONGEST} == {}


def test_benchmarks_import_what_there_is():
    for file in (ROOT / "benchmarks").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in ("pruning", "workspace"):
                module = import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}"), file


def test_paths_of_results_are_written_in_one_place():
    """Elsewhere only in docstrings, comments and shell-free texts for people."""
    for file in [*LIBRARY.rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        if file == LIBRARY / "core/names.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.fullmatch(r"(results|resources)/\{[^ ]*", node.value), f"{file}: {node.value}"


def test_shared_rules_stay_small():
    assert len((ROOT / "rules/common.smk").read_text().splitlines()) <= 130
    assert len((ROOT / "Snakefile").read_text().splitlines()) < 60


def rules() -> dict[str, str]:
    """Rule -> its text."""
    texts = [file.read_text() for file in (ROOT / "rules").rglob("*.smk")]
    return dict(
        found for text in texts for found in re.findall(r"^ *rule (\w+):(.*?)(?=^ *rule |\Z)", text, re.M | re.S)
    )


def test_the_slurm_profile_names_rules_that_there_are_and_no_partition():
    """A job's partition follows from the GPUs that it asks for (profiles/slurm/partitions.yaml), not from its rule."""
    import yaml

    text = (ROOT / "profiles/slurm/config.yaml").read_text()
    profile = yaml.safe_load(text)
    in_a_loop = re.findall(r'^    "(\w+)": \(', (ROOT / "rules/calibrate.smk").read_text(), re.M)
    assert {*profile["set-resources"], *profile["groups"]} <= {*rules(), *in_a_loop}
    assert "slurm_partition" not in text


def test_every_stages_memory_grows_with_its_attempts():
    text = "".join(path.read_text() for path in (ROOT / "rules").rglob("*.smk"))
    asked = re.findall(r"""mem_mb(?:=|": )(\w+)""", text)  # of a rule, or of all that do not say it (rules/stages.smk)
    assert len(asked) > 10 and set(asked) == {"memory_mb", "grown"}
    without = {name for name, body in rules().items() if not re.search(r"mem_mb=|on_[cg]pu\(|report_by\(", body)}
    assert without == {"paper"}  # no job of its own


if __name__ == "__main__":
    print(f"{len({place(file) for file in files()})} places, {len(arrows())} arrows between them")
    print(f"a circle of files: {circle({file: imported(file) for file in files()}) or 'none'}")
    for pair in sorted(arrows()):
        print(" -> ".join(pair))


def test_what_plug_ins_declare_is_read_without_torch():
    """Every start of snakemake reads REQUIRES and the like; torch and transformers would add seconds to it."""
    rooms = ("compensation", "allocation", "scores")
    named = [
        f"pruning.methods.{room}.{file.stem}"
        for room in rooms
        for file in (LIBRARY / "methods" / room).glob("[a-z]*.py")
    ]
    program = (
        f"import importlib, sys; [importlib.import_module(name) for name in {named}]; print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT / "scripts", capture_output=True, text=True, check=True
    )
    assert len(named) > 20 and done.stdout == "False\n"

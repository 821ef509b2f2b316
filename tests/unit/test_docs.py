"""The documentation: links between its files, and the site that is made of them."""

import ast
import csv
import dataclasses
import os
import re
import subprocess
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import get_args, get_type_hints

import networkx as nx
import pytest
from markdown_it import MarkdownIt

import browser
from pruning.command.request import Request
from workspace import ROOT

CONF = {
    node.targets[0].id: node.value
    for node in ast.parse((ROOT / "docs/conf.py").read_text()).body
    if isinstance(node, ast.Assign)
}
FILES = sorted(
    str(file.relative_to(ROOT))
    for pattern in ast.literal_eval(CONF["include_patterns"])
    for file in ROOT.glob(pattern)
    if file.suffix == ".md"
)


def tokens(name: str, kind: str) -> list:
    found = MarkdownIt("commonmark").enable("table").parse((ROOT / name).read_text())
    return [child for token in found for child in [token, *(token.children or [])] if child.type == kind]


def anchors(name: str) -> list[str]:
    """As GitHub names headings."""
    lines = re.findall(r"^#+ (.*)$", (ROOT / name).read_text(), re.M)
    return [re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines]


@pytest.mark.parametrize("name", FILES)
def test_links_lead_to_files_and_headings_that_there_are(name: str):
    links = [token.attrs["href"] for token in tokens(name, "link_open")] + [
        token.attrs["src"] for token in tokens(name, "image")
    ]
    for link in links:
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), link
        assert not anchor or anchors(str(target.resolve().relative_to(ROOT))).count(anchor) == 1, link


def test_every_page_of_docs_is_on_their_first_page():
    """From which the site has its sidebar."""
    links = {os.path.normpath(f"docs/{token.attrs['href']}") for token in tokens("docs/index.md", "link_open")}
    notebooks = {str(file.relative_to(ROOT)) for file in (ROOT / "docs").glob("*.ipynb")}
    pages = {name for name in FILES if name.startswith("docs/")} | notebooks
    assert pages - links == {"docs/index.md"}


def test_the_first_page_is_read_in_three_minutes():
    """At most 120 lines and 900 words, one picture, and tables of at most six rows."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120 and len(text.split()) <= 900
    assert len(tokens("README.md", "image")) == 1
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    assert tables and all(len(table.splitlines()) <= 6 + 2 for table in tables)


@pytest.mark.parametrize("file", sorted((ROOT / "docs/figures").glob("*.csv")), ids=lambda file: file.stem)
def test_a_figure_has_the_numbers_of_a_page_of_results(file: Path):
    name = "verdict" if file.stem.endswith("-bytes") else file.stem.replace("first-page", "qwen2_5-coder-1_5b-paper")
    page = (ROOT / f"docs/results/{name}.md").read_text()
    for row in csv.DictReader(file.open()):
        assert row["value"] in page
        assert f"[{row['low']}, {row['high']}]" in page, row
        if "mb" in row:
            assert f"{row['model']}, {row['type']} | {row['mb']} | {row['value']} [" in page.replace("`", "")


def told(node: ast.AST) -> str:
    """The text of a message, without what is put into it."""
    return "".join(
        part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
    )


OURS = r"\b(cuts?|refit|refitted|mend\w*|taught|teach|anew|dear\w*|programme|(?:is|are|be) asked)\b"
"""Words that the field does not use (pruned, reconstruction, fine-tuned, again, cost, evaluated)."""


def test_messages_and_help_use_the_fields_words():
    hints = [get_args(hint) for hint in get_type_hints(Request, include_extras=True).values()]
    said = [("prune --help", hint[1].help) for hint in hints if hint]
    for file in (ROOT / "scripts").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func).rpartition(".")[2]
                texts = node.args[:1] if name in ("InputError", "ValueError") else []
                texts += [key.value for key in node.keywords if key.arg == "help"]
                said += [(str(file.relative_to(ROOT)), told(text)) for text in texts]
    assert len(said) > 400
    assert [(file, text) for file, text in said if re.search(OURS, text)] == []


@pytest.fixture(scope="module")
def pipeline():
    path = ROOT / "docs/figures/pipeline.py"
    module = module_from_spec(spec := spec_from_file_location("pipeline", path))
    spec.loader.exec_module(module)
    return module


def test_the_drawn_pipeline_is_that_of_the_rules(forks, monkeypatch, pipeline):
    """To the arrow; and every file of rules is a box, but that of the embedded model's training."""
    monkeypatch.setenv("LOADED", os.devnull)  # so that the fork loads the library anew: it plans for an empty folder
    assert (ROOT / "docs/figures/pipeline.svg").read_text() == pipeline.svg(pipeline.arrows())
    made = {file.stem for file in (ROOT / "rules").rglob("*.smk") if re.search(r"^ *rule\b", file.read_text(), re.M)}
    assert made - {"reasoner"} == set(pipeline.STAGES)


def test_an_arrow_is_left_out_where_stages_that_always_run_lead_there(pipeline):
    graph = nx.DiGraph(["ab", "bc", "ac", ("a", "refit"), ("refit", "c"), ("d", "refit"), ("refit", "e"), "de"])
    found = {edge for edge in graph.edges if not pipeline.detour(graph, *edge)}
    assert set(graph.edges) - found == {("a", "c")}  # but not that from d to e, past an optional stage


def test_formulas_are_closed_and_none_is_left_as_code():
    for name in FILES:
        code = [token.content for token in tokens(name, "code_inline")]
        assert not [text for text in code if re.search("[Σ√∂‖∝]", text)], name
        prose = re.sub(r"```.*?```|`[^`\n]*`|^    .*$", "", (ROOT / name).read_text(), flags=re.S | re.M)
        assert prose.count("$") % 2 == 0, name


CONFIGS = [
    str(path.relative_to(ROOT))
    for part in ("config/*.yaml", "profiles/*/config.yaml")
    for path in sorted(ROOT.glob(part))
]
COMMANDS = [
    pytest.param(name, " ".join(line.split("  #")[0].split()), id=f"{name}: {line.strip()[:60]}")
    for name in [*FILES, *CONFIGS]
    for line in re.findall(r"^(?:    |#  *)((?:prune|make|snakemake|python) .*)$", (ROOT / name).read_text(), re.M)
]


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_commands_name_what_there_is(name: str, command: str):
    """Targets of make, options of prune, files and profiles; a run that wants to be confirmed is."""
    words = command.replace('"', "").split()
    if words[0] == "make" and re.fullmatch("[a-z0-9-]+", words[1]):
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)
    if words[0] == "prune":
        known = {f"--{field.name}" for field in dataclasses.fields(Request)} | {"--version", "--task"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known
    for word in words:
        if re.match(r"(config|profiles|scripts|benchmarks|examples|tests|docs)/", path := word.rpartition("=")[2]):
            assert (ROOT / path).exists(), path
    confirmed = "confirm=true" in command or words[0] != "snakemake" or "-n" in words
    asks = [word for word in words if word.startswith("config/") and "ask_above: 1" in (ROOT / word).read_text()]
    assert confirmed or not asks, f"{asks[0]} asks before large runs: --config confirm=true"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Where `make docs` has been run, or sphinx is here."""
    if not (builder := ROOT / ".venv-docs/bin/sphinx-build").is_file():
        pytest.skip("make docs")
    out = tmp_path_factory.mktemp("site")
    command = [str(builder), "-q", "-W", "-c", "docs", "-d", str(out / "doctrees"), ".", str(out / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / "site"


def test_a_site_needs_no_network_and_draws_all_formulas(site: Path):
    for name in FILES:
        page = (site / name).with_suffix(".html").read_text()
        text = (ROOT / name).read_text()
        assert page.count('class="formula"') == len(re.findall(r"^\s*\$\$$", text, re.M)) // 2, name
        assert not re.search(r'(src|<link[^>]*href)="https?:', page), name
    assert (site / "docs/methods.html").read_text().count("<math") > 30
    assert (site / "searchindex.js").is_file() and "theme-toggle" in (site / "index.html").read_text()


MEASURE = "report({inner: window.innerWidth, scroll: document.documentElement.scrollWidth})"


@browser.NEEDED
@pytest.mark.parametrize(
    "name",
    [
        *("index", "docs/methods", "docs/findings", "docs/reference/configuration"),
        *("docs/results/qwen2_5-coder-1_5b", "docs/results/verdict"),
    ],
)
@pytest.mark.parametrize("width", [1280, 400])
def test_no_page_scrolls_sideways(site: Path, name: str, width: int):
    found, _ = browser.measured(site / f"{name}.html", width, MEASURE, "--allow-file-access-from-files")
    assert found["inner"] == width and found["scroll"] <= width, name

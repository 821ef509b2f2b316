"""The documentation: links between its files, and the site that is made of them."""

import ast
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

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


def anchors(name: str) -> set[str]:
    """As GitHub names headings."""
    lines = re.findall(r"^#+ (.*)$", (ROOT / name).read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


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
        assert not anchor or anchor in anchors(str(target.resolve().relative_to(ROOT))), link


def test_every_page_is_in_the_sites_contents():
    pages = ast.literal_eval(CONF["PAGES"]) + [ast.literal_eval(CONF["root_doc"])]
    notebooks = [f"docs/{file.stem}" for file in (ROOT / "docs").glob("*.ipynb")]
    assert sorted(pages) == sorted([*(name.removesuffix(".md") for name in FILES), *notebooks])


def test_formulas_are_closed_and_none_is_left_as_code():
    for name in FILES:
        code = [token.content for token in tokens(name, "code_inline")]
        assert not [text for text in code if re.search("[Σ√∂‖∝]", text)], name
        prose = re.sub(r"```.*?```|`[^`\n]*`|^    .*$", "", (ROOT / name).read_text(), flags=re.S | re.M)
        assert prose.count("$") % 2 == 0, name


def test_a_site_is_built_of_it(tmp_path: Path):
    """Where `make docs` has been run, or sphinx is here."""
    import subprocess

    if not (builder := ROOT / ".venv-docs/bin/sphinx-build").is_file():
        pytest.skip("make docs")
    command = [str(builder), "-q", "-W", "-c", "docs", "-d", str(tmp_path / "doctrees"), ".", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    methods = (tmp_path / "site/docs/methods.html").read_text()
    displayed = (ROOT / "docs/methods.md").read_text().count("$$") // 2
    assert methods.count("<math") > 50 and methods.count('class="formula"') == displayed >= 9 and "$" not in methods
    for page in (tmp_path / "site").rglob("*.html"):
        assert not re.search(r'(src|<link[^>]*href)="https?:', page.read_text()), page

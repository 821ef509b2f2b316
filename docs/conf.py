"""The documentation as a site: `make docs`, or sphinx-build -W -c docs . site.

Its pages are the Markdown files of the repository, at their own paths, so that the links between them are the same.
Nothing is loaded from elsewhere.
"""

import os
import re
import sys
from pathlib import Path

from docutils.nodes import SkipNode
from math_core import LatexError, LatexToMathML
from sphinx.errors import SphinxError

project = "Reasoning-aware pruning"
html_title = project
html_theme = "furo"
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
sys.path.insert(0, os.path.abspath("../scripts"))  # for docs/reference-python.md; it imports nothing that is slow
nb_render_markdown_format = "gfm"  # tables
nb_execution_mode = "off"
root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/*.md",
    "docs/*/*.md",
    "benchmarks/README.md",
    "docs/*.ipynb",
    "config/README.md",
    "profiles/README.md",
    "resources/*/README.md",
]
exclude_patterns = [".venv", ".venv-docs", ".snakemake", "build", "results", "site", "tests"]  # not even walked through
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
FORMULAS = LatexToMathML()


def sidebar(every):
    """Heading -> pages, as docs/index.md lists them; below the last one, those that it leaves out."""
    index = Path(__file__).with_name("index.md").read_text()
    found = {"Start": ["docs/index"]}
    for part in index.split("\n## ")[1:]:
        links = re.findall(r"\]\(([^)#]+)\.(?:md|ipynb)\)", part)
        found[part.partition("\n")[0]] = [os.path.normpath(f"docs/{link}") for link in links]
    return {**found, "Project": sorted(every - {root_doc}.union(*found.values()))}


def contents(app, name, source):
    """The first page gets the contents, which GitHub would show as they are."""
    if name == root_doc:
        for caption, pages in sidebar(app.env.found_docs).items():
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"


def mathml(translator, node):
    """Browsers draw it without scripts."""
    block = node.tagname == "math_block"
    try:
        formula = FORMULAS.convert_with_local_state(node.astext(), displaystyle=block)
    except LatexError as error:
        raise SphinxError(f"{node.source}: formula {node.astext()}: {error}") from None
    translator.body.append(f'<div class="formula">{formula}</div>' if block else formula)
    raise SkipNode


def first_page(app, failure):
    if not failure and app.builder.format == "html":
        (app.outdir / "index.html").write_text((app.outdir / "README.html").read_text())


def setup(app):
    app.connect("env-get-outdated", lambda *_: [root_doc])  # which is read again, as the list of pages may have changed
    app.connect("source-read", contents)
    app.connect("build-finished", first_page)
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))

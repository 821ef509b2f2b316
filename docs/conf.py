"""The documentation as a site: `make docs`, or sphinx-build -W -c docs . site.

Its pages are the Markdown files of the repository, at their own paths, so that the links between them are the same.
Nothing is loaded from elsewhere.
"""

import os
import sys

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
nb_execution_mode = "off"
root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/*.md",
    "docs/*.ipynb",
    "config/README.md",
    "profiles/README.md",
    "resources/*/README.md",
]
exclude_patterns = [".venv", ".venv-docs", ".snakemake", "build", "results", "site", "tests"]  # not even walked through
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
PAGES = [  # the sidebar
    "docs/smollm2",
    "docs/howto",
    "docs/methods",
    "docs/reference-python",
    "docs/findings",
    "docs/artefacts",
    "docs/architecture",
    "docs/memory",
    "docs/tiny-reasoner",
    "config/README",
    "profiles/README",
    "resources/paper/README",
    "resources/tiny-reasoner/README",
    "CONTRIBUTING",
    "CHANGELOG",
]
FORMULAS = LatexToMathML()


def contents(app, name, source):
    """The first page gets the contents, which GitHub would show as they are."""
    if name == root_doc:
        source[0] += "\n```{toctree}\n:hidden:\n\n" + "\n".join(PAGES) + "\n```\n"


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
    app.connect("source-read", contents)
    app.connect("build-finished", first_page)
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))

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
PAGES = {  # the sidebar
    "Start": ["docs/index"],
    "Tutorials": ["docs/tutorials/first-model", "docs/smollm2"],
    "How to": [
        "docs/howto/install",
        "docs/howto/model",
        "docs/howto/data",
        "docs/howto/effort",
        "docs/howto/budget",
        "docs/howto/alternatives",
        "docs/howto/vocabulary",
        "docs/howto/experts",
        "docs/howto/recovery",
        "docs/howto/transformers",
        "docs/howto/vllm",
        "docs/howto/llama-cpp",
        "profiles/README",
        "docs/memory",
        "docs/howto/method",
        "docs/howto/tables",
        "docs/howto/read-results",
        "docs/howto/resume",
    ],
    "Reference": [
        "docs/reference/command-line",
        "docs/reference/configuration",
        "config/README",
        "docs/reference-python",
        "docs/artefacts",
        "docs/reference/columns",
        "docs/reference/results",
        "docs/reference/families",
    ],
    "Explanation": [
        "docs/methods",
        "docs/explanation/reconstruction",
        "docs/explanation/allocation",
        "docs/explanation/paper-methods",
        "docs/explanation/statistics",
        "docs/explanation/vocabulary",
        "docs/architecture",
        "docs/tiny-reasoner",
    ],
    "Results": [
        "docs/findings",
        "docs/results/verdict",
        "docs/results/qwen2_5-coder-1_5b",
        "docs/results/qwen2_5-coder-0_5b",
        "docs/results/smollm2-135m",
        "docs/results/tiny-reasoner",
        "benchmarks/README",
        "docs/results/archive",
    ],
    "Project": [
        "CONTRIBUTING",
        "CHANGELOG",
        "resources/paper/README",
        "resources/tiny-reasoner/README",
        "resources/tiny-mixture/README",
    ],
}
FORMULAS = LatexToMathML()


def contents(app, name, source):
    """The first page gets the contents, which GitHub would show as they are."""
    if name == root_doc:
        for caption, pages in PAGES.items():
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
    app.connect("env-get-outdated", lambda *_: [root_doc])  # which is read again, as PAGES may have changed
    app.connect("source-read", contents)
    app.connect("build-finished", first_page)
    app.add_html_math_renderer("mathml", (mathml, None), (mathml, None))

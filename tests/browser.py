"""A headless Chromium that lays out a page and runs a script in it."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDED = pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium")

FRAME = """<script>window.onmessage = message => document.body.dataset.measured = message.data</script>
<iframe src="measured.html" style="border: 0; height: 800px; width: {width}px"></iframe>"""
SCRIPT = """<script>{ const report = found => window.parent.postMessage(JSON.stringify(found), "*"); %s }</script>"""


def measured(page: Path, width: int, script: str, *options: str) -> tuple[dict[str, Any], list[str]]:
    """What a script hands to `report` at the end of a page, in a frame of that width (a window has 500 at least), and
    the lines of the console."""
    before, end, after = page.read_text().rpartition("</body>")
    page.with_name("measured.html").write_text(before + SCRIPT % script + end + after)
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.replace("{width}", str(width)))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *options]
    command += ["--virtual-time-budget=20000", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    found = re.search(r'data-measured="(.*?)"', done.stdout)
    assert found, f"nothing was reported: {console}"
    return json.loads(unescape(found[1])), console

"""The documents build into a site without a warning, and it asks no other host for anything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import REPOSITORY

pytestmark = pytest.mark.slow

_ASKED = re.compile(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?(https?:)?//([^\"'/ >]+)", re.IGNORECASE)


def test_the_site_builds_without_a_warning_and_stands_by_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {
        path.relative_to(tmp_path).as_posix(): path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.html")
    }
    assert {"index.html", "tutorial.html", "page.html", "reference/serving.html", "decisions/index.html"} <= set(pages)
    for name, text in pages.items():
        assert [found[1] for found in _ASKED.findall(text)] == [], name
    assert "StreamingRidge" in pages["reference/learning.html"] and "float64" in pages["reference/learning.html"]

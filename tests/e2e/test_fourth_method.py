"""The method that docs/learner.md adds, as it stands there: `learning/` alone is touched, and it learns and serves."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.e2e.system import System

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(600)]

DOMAIN = "german-dates"
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def added(repository: Path, folder: Path) -> None:
    """A copy of `learning/` with the document's files, and its lines in `methods.py`."""
    copy = folder / "learning"
    shutil.copytree(repository / "learning", copy, ignore=shutil.ignore_patterns("__pycache__"))
    *files, lines = _BLOCK.findall((repository / "docs" / "learner.md").read_text())
    for block in files:
        place, text = block.split("\n", 1)
        (folder / place.removeprefix("# ")).write_text(text)
    imported, entry = (line for line in lines.splitlines() if line)
    methods = (copy / "methods.py").read_text()
    methods = methods.replace("from learning.lora_options", f"{imported}\nfrom learning.lora_options", 1)
    methods = methods.replace("    LoraOptions:", f"{entry}\n    LoraOptions:", 1)
    (copy / "methods.py").write_text(methods)


def test_the_documents_method_learns_and_serves(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added(repository, tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(repository)]))
    rows = (repository / "examples" / "stream" / f"{DOMAIN}.train.jsonl").read_text().splitlines()[:200]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    quick = ["learner.kind=lora_fa", "learner.max_steps=60", "learner.patience=null", "features.expansion=256"]
    # The folders of a script and of its start come first, in Ray's workers too: there the copy lies.
    script = tmp_path / "anabranch_up.py"
    script.write_text(
        "import sys\n"
        "from console.cli import main\n"
        "sys.argv[1:] = ['up', 'demo', *(word for each in sys.argv[1:] for word in ('--set', each))]\n"
        "if __name__ == '__main__':\n"
        "    main()\n"
    )
    home = tmp_path / "home"
    with System("demo", home, quick, command=[sys.executable, str(script)], beside=tmp_path) as system:
        system.feed(tmp_path / "rows.jsonl")
        system.wait_until_published(DOMAIN)
        version = system.domain(DOMAIN)["version"]
        prompt = json.loads(rows[0])["prompt"]
        assert system.ask(prompt, DOMAIN).headers["x-anabranch-adapter"] == version
    folder = home / "registry" / "adapters" / version
    assert json.loads((folder / "anabranch.json").read_text())["facts"]["learner"] == "lora_fa"
    weights = load_file(folder / "adapter_model.safetensors")
    assert all(weight.any() for name, weight in weights.items() if "lora_B" in name)

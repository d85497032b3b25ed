"""What reads settings or decides must not pay for what computes."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "huggingface_hub", "peft", "scipy.stats")


@pytest.mark.parametrize(
    ("modules", "also_absent"),
    [
        ("learning.methods, learning.feature_options, learning.gate, learning.contract", ("numpy", "scipy")),
        ("learning.checkpoint, learning.calibration", ("numpy", "scipy")),
        ("learning.adapter_check", ()),
        ("learning.rls, learning.statistics, learning.metrics", ()),
    ],
)
def test_it_imports_nothing_heavy(repository: Path, modules: str, also_absent: tuple[str, ...]) -> None:
    code = f"import sys, {modules}; print([name for name in {(*HEAVY, *also_absent)!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""Asking for help costs no import of a large library."""

import subprocess
import sys

import pytest

from tests.architecture.sources import REPOSITORY

HEAVY = ("torch", "ray", "vllm", "transformers", "peft", "kafka", "numpy", "scipy", "pyarrow")

CODE = f"""
import sys
sys.argv = ["anabranch", *sys.argv[1:]]
from console.cli import main
try:
    main()
except SystemExit as stop:
    code = stop.code
else:
    code = 0
print("LOADED", [name for name in {HEAVY!r} if name in sys.modules], code or 0)
"""


@pytest.mark.parametrize("arguments", [[], ["demo"], ["up"], ["config"], ["feed"], ["doctor"], ["top"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments, "--help"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED [] 0"
    assert "Usage" in done.stdout


def test_checking_a_config_imports_nothing_heavy() -> None:
    arguments = ["config", "validate", "one_gpu"]
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "LOADED [] 0", done.stdout + done.stderr

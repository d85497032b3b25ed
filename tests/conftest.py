"""What holds for every test: no network, no telemetry, few threads; where the shared material lies."""

import gc
import os
from pathlib import Path

import pytest

# Set before anything imports the libraries that read them, and inherited by every process that a test starts.
for _key, _value in {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}.items():
    os.environ.setdefault(_key, _value)

# Where tests run beside each other, their runner says how wide its screen is; ours has none.
os.environ.pop("COLUMNS", None)

REPOSITORY = Path(__file__).parents[1]


# What is collected and imported stays until the end: searched for garbage again and again, it took a second each time.
def pytest_collection() -> None:
    """Collect tests without collecting garbage."""
    gc.disable()


def pytest_runtestloop() -> None:
    """From here on garbage is what a test leaves."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the working tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of test data and models beside the repository; the test is skipped where there is none."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared beside the repository: the test needs its data or models")
    return folder

"""Small random base models of several kinds with a byte-level tokenizer: real files, made in a second."""

from pathlib import Path

import pytest

from tests.learning.bases import write_base


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A four-layer Llama of width 32."""
    return write_base(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="session", params=["llama", "qwen3", "gemma3_text", "olmo2"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One decoder of each kind that names its parts alike and norms differently."""
    return write_base(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def stories(shared: Path) -> Path:
    """The small pretrained model."""
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip("no stories260K model in ../shared")
    return folder


@pytest.fixture(scope="session")
def clinc(shared: Path) -> Path:
    """Folder of the data sets."""
    folder = shared / "data"
    if not (folder / "clinc150").is_dir():
        pytest.skip("no clinc150 data in ../shared")
    return folder

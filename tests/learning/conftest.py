"""Small random base models of several kinds with a byte-level tokenizer: real files, made in a second."""

from pathlib import Path

import pytest

from tests.learning.bases import write_base, write_encoder
from tests.learning.interruptions import StepClock


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A four-layer Llama of width 32."""
    return write_base(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="session", params=["llama", "qwen3", "gemma3_text", "olmo2"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One decoder of each kind that names its parts alike and norms differently."""
    return write_base(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session", params=["bert", "camembert", "roberta", "xlm-roberta"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One encoder of each kind, saved with the head it was trained with."""
    return write_encoder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A four-layer BERT of width 32."""
    return write_encoder(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of this test alone; it is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "anabranch" / "digests"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StepClock:
    """By which checkpoints of a training are due."""
    made = StepClock()
    monkeypatch.setattr("learning.resumption.monotonic", lambda: made.now)
    return made


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

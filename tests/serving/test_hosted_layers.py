"""The router's layers asked over a socket are the layers themselves; what goes wrong there is told, and tried again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

import numpy as np
import pytest

from learning.errors import TextsWithoutTokens
from learning.feature_options import FeatureOptions
from learning.features import FeatureExtractor
from learning.pooled_layers import PooledLayers
from serving.errors import Unavailable
from serving.hosted_layers import HostedLayers, host

OPTIONS = FeatureOptions(layers=(0, 1), poolings=("mean", "max"), expansion=64, max_tokens=64)
TEXTS = ["one", "two and three", "a longer text that is none of these"]


@pytest.fixture(scope="module", autouse=True)
def _where_sockets_stay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Who hosts here is this process, which has its sockets until it ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.hosted_layers.short_folder", lambda: str(tmp_path_factory.mktemp("at")))
        yield


@pytest.fixture(scope="module")
def base() -> Path:
    return Path(__file__).parents[2] / "examples" / "base"


@pytest.fixture(scope="module")
def layers(base: Path) -> Iterator[HostedLayers]:
    hosted = HostedLayers(base, OPTIONS)
    host(hosted.hosting)
    hosted.begun()
    yield hosted
    hosted.close()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_features_and_fingerprint_are_those_of_layers_of_its_own(base: Path, dtype: str) -> None:
    options = OPTIONS.model_copy(update={"dtype": dtype})
    hosted = HostedLayers(base, options)
    host(hosted.hosting)
    hosted.begun()
    there, here = FeatureExtractor(str(base), options, layers=hosted), FeatureExtractor(str(base), options)
    assert there.fingerprint == here.fingerprint and there.feature_dim == here.feature_dim
    assert np.array_equal(there.extract(TEXTS), here.extract(TEXTS))
    assert np.array_equal(there.extract([]), here.extract([]))
    hosted.close()


def test_many_may_ask_at_once(base: Path, layers: HostedLayers) -> None:
    made = FeatureExtractor(str(base), OPTIONS, layers=layers)
    expected = FeatureExtractor(str(base), OPTIONS).extract(TEXTS)
    wrong: list[int] = []

    def ask(number: int) -> None:
        for at, text in enumerate(TEXTS):
            if not np.array_equal(made.extract([text])[0], expected[at]):
                wrong.append(number)

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for each in asking:
        each.start()
    for each in asking:
        each.join()
    assert not wrong


def test_a_text_without_tokens_is_found_here(base: Path, layers: HostedLayers) -> None:
    with pytest.raises(TextsWithoutTokens):
        FeatureExtractor(str(base), OPTIONS, layers=layers).extract(["one", ""])


def test_what_fails_there_is_told_and_the_next_is_answered(
    layers: HostedLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooled = PooledLayers.pooled
    for error, told in ((MemoryError("no room"), MemoryError), (RuntimeError("odd"), Unavailable)):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(PooledLayers, "pooled", fail)
        with pytest.raises(told, match=str(error)):
            layers.pooled([[1, 2]], 0)
    monkeypatch.setattr(PooledLayers, "pooled", pooled)
    assert layers.pooled([[1, 2]], 0).shape == (1, layers.width)


def test_layers_that_can_not_be_loaded_are_said_to_each_who_asks(tmp_path: Path) -> None:
    hosted = HostedLayers(tmp_path, OPTIONS)
    host(hosted.hosting)
    hosted.begun()
    for _ in range(2):
        with pytest.raises(Unavailable, match="can't be loaded"):
            hosted.pooled([[1]], 0)
    hosted.close()


def test_who_lost_the_line_gets_another(layers: HostedLayers) -> None:
    assert layers._connection is not None or layers.width
    before = layers.pooled([[1, 2]], 0)
    assert layers._connection is not None
    layers._connection.close()
    with pytest.raises(Unavailable):
        layers.pooled([[1, 2]], 0)
    assert np.array_equal(layers.pooled([[1, 2]], 0), before)


def test_a_worker_that_is_not_there_is_told(base: Path) -> None:
    hosted = HostedLayers(base, OPTIONS)
    hosted.begun()
    with pytest.raises(Unavailable, match="does not answer"):
        _ = hosted.width
    hosted.close()


def test_a_stranger_is_not_answered_and_keeps_nobody_waiting(base: Path) -> None:
    hosted = HostedLayers(base, OPTIONS)
    host(hosted.hosting)
    with pytest.raises(AuthenticationError):
        Client(hosted.hosting.address, "AF_UNIX", b"another")
    hosted.begun()
    assert hosted.width > 0
    assert Path(hosted.hosting.address).parent.stat().st_mode & 0o077 == 0
    hosted.close()

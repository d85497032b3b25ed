"""The router joins its small files on a disk that fails at any of them: nothing counts twice, nothing is missing."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.observation import RowKey
from actors.router import Router
from learning.router_options import RouterOptions
from registry.adapters import Adapter
from registry.manifest import BaseRevision
from registry.registry import Registry
from registry.segments import SegmentStore
from tests.actors.router_rows import P0, RIDGE, Row, batch, close, keys, observation, of, seal_and_publish, served

DOMAINS = ["alpha", "beta", "gamma", "delta"]


def opened(root: Path) -> Router:
    base = BaseRevision(model="tiny", digest="b" * 64)
    return Router(Registry(root, writer=True), base, RouterOptions(ridge=RIDGE, background=False))


def prepared(router: Router, add: Callable[..., Adapter]) -> list[Row]:
    """A home with digests to be joined, groups that stay, a group that a folded domain was in, and one to be made."""
    counted: list[Row] = []

    def publish(domain: str, version: int, count: int) -> None:
        known = sum(row[0] == domain for row in counted)
        rows = of(domain, range(known, known + count))
        router.observe(observation({P0: (len(counted), len(counted) + count)}, rows))
        counted.extend(rows)
        seal_and_publish(router, add(domain, version))

    for domain in DOMAINS:
        publish(domain, 1, 5)
    router.tidy()
    for version in (2, 3):
        publish("alpha", version, 4)
    for domain in ("epsilon", "zeta", "eta", "theta"):
        publish(domain, 1, 5)
    for domain in ("alpha", "zeta", "theta"):
        add(domain, 9)
    return counted


def named(root: Path) -> tuple[object, ...]:
    """What the last commit names of what may be joined."""
    snapshot = Registry(root).snapshot()
    assert snapshot is not None
    ledger, ridge = snapshot.state["ledger"], snapshot.state["sums"]["ridge"]
    return ledger["domains"]["alpha"]["settled"], ridge["domains"]["alpha"], ridge["groups"]


def publish_more(root: Path, router: Router, counted: list[Row], domain: str) -> None:
    """One more row is counted and published, and what is served is the batch solution."""
    row = of(domain, [40])
    assert router.observe(observation({P0: (len(counted), len(counted) + 1)}, row)).applied
    counted.extend(row)
    registry = Registry(root)
    (adapter,) = [each for each in registry.adapters(domain) if each.version == 9]
    manifest = seal_and_publish(router, adapter)
    close(served(registry).weight_DK, batch(counted, sorted(manifest.routes)))


def fail_at(at: int, *, late: bool, patch: pytest.MonkeyPatch) -> list[str | None]:
    """Have file number `at` fail, `late` once it lies there; the list has the names of those that did not."""
    real, put = SegmentStore.put, list[str | None]()

    def failing(store: SegmentStore, tensors: Any) -> str:
        put.append(None)
        name = real(store, tensors) if late or len(put) != at else ""
        if len(put) == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        put[-1] = name
        return name

    patch.setattr(SegmentStore, "put", failing)
    return put


@pytest.mark.parametrize("late", [False, True], ids=["full", "not forced"])
def test_a_disk_that_fails_while_files_are_joined(
    start: Callable[[], Router],
    registry: Registry,
    add: Callable[..., Adapter],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    late: bool,
) -> None:
    rows = prepared(start(), add)
    for fails_at in range(1, 100):
        root, counted = tmp_path / f"{fails_at}", [*rows, *of("beta", range(50, 53))]
        shutil.copytree(registry.root, root)
        router = opened(root)
        router.observe(observation({P0: (len(rows), len(counted))}, counted[len(rows) :]))
        asked = [*keys(of("alpha", range(15)), 100), *keys(of("beta", range(60)), 100)]

        def said(router: Router = router, asked: list[RowKey] = asked) -> tuple[object, ...]:
            return router.counts(), router.examples(), router.fates(asked), router.observed(), router.open()

        before, files = said(), named(root)
        with monkeypatch.context() as patch:
            put = fail_at(fails_at, late=late, patch=patch)
            try:
                router.tidy()
            except OSError as error:
                assert error.errno == errno.ENOSPC
        assert said() == before
        router.seal("beta", 9, router.observed())
        assert [a == b for a, b in zip(named(root), files, strict=True)] == [None in put] * 3
        router = opened(root)
        publish_more(root, router, counted, "alpha")
        router.tidy()
        publish_more(root, router, counted, "zeta")
        publish_more(root, opened(root), counted, "theta")
        if None not in put:
            assert fails_at > 4, "digests, a folded domain's sums, and a group"
            return
    raise AssertionError("the tidying never ended")

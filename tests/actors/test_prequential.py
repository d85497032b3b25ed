"""Prequential accuracy: by the router in force, before rows count; and said where it can't be taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actors.change import Change
from actors.routed_share import Share
from actors.router import Router
from registry.adapters import Adapter
from registry.registry import Registry
from tests.actors.house import House
from tests.actors.router_rows import P0, features, observation, of, seal_and_publish, served

Add = Callable[..., Adapter]
Damage = Callable[[Path], None]


def weights_file(registry: Registry) -> Path:
    manifest = registry.current()
    assert manifest is not None and manifest.router is not None
    return registry.root / manifest.router.path


def change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.fixture
def router(start: Callable[[], Router], add: Add) -> Router:
    """Two domains in service."""
    router = start()
    router.observe(observation({P0: (0, 40)}, [*of("alpha", range(20)), *of("beta", range(20))]))
    seal_and_publish(router, add("alpha"))
    seal_and_publish(router, add("beta"))
    return router


def test_rows_are_tried_on_what_is_in_force_before_they_count(router: Router, registry: Registry) -> None:
    weights, rows = served(registry), of("alpha", range(50, 60))
    names = [weights.domains[column] for column in weights.scores(features(rows)).argmax(axis=1)]
    router.observe(observation({P0: (40, 52)}, [*rows, *of("gamma", range(2))]))
    share = router.prequential()["alpha"]
    weight = 0.998 ** np.arange(9, -1, -1)
    right = np.array([name == "alpha" for name in names])
    assert (share.accuracy, share.rows) == (pytest.approx((weight * right).sum() / weight.sum()), 10)
    shares = {name: (weight * (np.array(names) == name)).sum() / weight.sum() for name in set(names)}
    assert share.routed_to() == pytest.approx(shares)
    assert set(router.prequential()) == {"alpha"} and router.trouble() is None, "what is not in service is not tried"
    router.publish(Change("removed", removes={"alpha": 1}))
    assert router.prequential() == {}


def test_where_rows_would_have_gone_fades_as_they_do_and_stays_bounded() -> None:
    share, names = Share(), [f"d{n % 37 if n < 20_000 else n % 3}" for n in range(30_000)]
    for name in names:
        share.note(name, name == "d0")
    weight = 0.998 ** np.arange(len(names) - 1, -1, -1)
    told = share.routed_to()
    for name in ("d0", "d1", "d2"):
        assert told[name] == pytest.approx((weight * (np.array(names) == name)).sum() / weight.sum())
    assert told["d0"] == pytest.approx(share.accuracy)
    assert set(told) <= {"d0", "d1", "d2"} and len(share.chosen) == 3, "what has faded is dropped"


def test_the_largest_are_told_of_many() -> None:
    share = Share()
    for n in range(1000):
        share.note(f"d{n % 50 if n % 2 else 0}", n % 2 == 0)
    told = share.routed_to()
    assert next(iter(told)) == "d0" and len(told) == 8 and sum(told.values()) <= 1 + 1e-9


@pytest.mark.parametrize("damage", [change_a_byte, Path.unlink], ids=["changed", "gone"])
def test_weights_that_cannot_be_read_are_said_and_tried_again(
    router: Router, registry: Registry, monkeypatch: pytest.MonkeyPatch, damage: Damage
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    path = weights_file(registry)
    whole = path.read_bytes()
    damage(path)
    assert router.observe(observation({P0: (40, 43)}, of("alpha", range(50, 53)))).applied, "it is a figure alone"
    for _ in range(2):
        trouble = router.trouble()
        assert trouble is not None and "prequential accuracy stands still" in trouble
    path.write_bytes(whole)
    router.observe(observation({P0: (43, 45)}, of("alpha", range(53, 55))))
    assert router.prequential() == {} and router.trouble() is not None, "not before the pause is over"
    now += 100.0
    router.observe(observation({P0: (45, 50)}, of("alpha", range(55, 60))))
    assert router.prequential()["alpha"].rows == 5 and router.trouble() is None


def test_whoever_asks_has_them_read_again(router: Router, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row may come for a long time."""
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    path = weights_file(registry)
    whole = path.read_bytes()
    path.unlink()
    assert router.trouble() is not None
    path.write_bytes(whole)
    now += 100.0
    assert router.trouble() is None


def test_another_publication_is_read_at_once(router: Router, registry: Registry, add: Add) -> None:
    weights_file(registry).unlink()
    router.observe(observation({P0: (40, 43)}, of("alpha", range(50, 53))))
    assert router.trouble() is not None
    seal_and_publish(router, add("alpha", 2))
    router.observe(observation({P0: (43, 45)}, of("alpha", range(53, 55))))
    assert router.prequential()["alpha"].rows == 2 and router.trouble() is None


def test_the_status_says_so(two_versions: House) -> None:
    house = two_versions
    house.start_router()
    weights_file(house.registry).unlink()
    trouble = house.status().trouble
    assert trouble is not None and "prequential accuracy stands still" in trouble
    assert [domain.state for domain in house.status().domains] == ["published", "published"]

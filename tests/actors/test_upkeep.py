"""Files are deleted when something has changed since, also if that came while others were being deleted."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from actors import upkeep
from actors.upkeep import Keep, Upkeep


class Shelf:
    """A registry that counts prunings; `meanwhile` is called once, in the midst of the next one."""

    def __init__(self) -> None:
        self.commits, self.pruned = 1, 0
        self.meanwhile: Callable[[], None] = lambda: None
        self.damaged: dict[int, Exception] = {}

    def head(self) -> Any:
        return SimpleNamespace(snapshot=self.commits)

    def chain(self) -> Any:
        return SimpleNamespace(damaged=dict(self.damaged))

    def prune(self, *_keep: int, serving: int | None) -> None:
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        self.pruned += 1


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def keeper(shelf: Shelf) -> Upkeep:
    nobody: Any = SimpleNamespace(replicas=dict, lead_on=lambda: None, tidy=lambda: None, is_outdated=lambda: False)
    registry: Any = shelf
    return Upkeep(registry, nobody, nobody, nobody, Keep(2, 20, 3))


@pytest.mark.parametrize("what", ["a commit", "a version to be deleted"])
def test_what_comes_while_files_are_deleted_is_looked_at_by_the_next_pass(
    shelf: Shelf, keeper: Upkeep, what: str
) -> None:
    def commit() -> None:
        shelf.commits += 1

    shelf.meanwhile = commit if what == "a commit" else keeper.prune_again
    for pruned in (1, 2, 2, 2):
        keeper.go_over(is_idle=False)
        assert shelf.pruned == pruned


def test_a_damaged_old_manifest_is_trouble_until_it_is_mended(
    shelf: Shelf, keeper: Upkeep, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.damaged[4] = ValueError("manifest 4 is not what was written")
    for _ in range(2):
        keeper.go_over(is_idle=True)
        assert keeper.trouble is not None and "manifest 4" in keeper.trouble and "restore" in keeper.trouble
    assert shelf.pruned == 1
    shelf.damaged.clear()
    now = upkeep.time.monotonic()
    monkeypatch.setattr(upkeep.time, "monotonic", lambda: now + 100.0)
    for _ in range(2):
        keeper.go_over(is_idle=True)
    assert keeper.trouble is None

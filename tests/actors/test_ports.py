"""The directory meets the coordinator's port behind a transport that waits for coroutines: no type checker sees it."""

from __future__ import annotations

import inspect

import pytest

from actors.directory import ReplicaDirectory
from actors.ports import ReplicasPort


@pytest.mark.parametrize("name", [name for name in vars(ReplicasPort) if not name.startswith("_")])
def test_the_directory_meets_the_coordinators_port(name: str) -> None:
    asked, answered = getattr(ReplicasPort, name), getattr(ReplicaDirectory, name)
    assert inspect.signature(answered) == inspect.signature(asked)
    assert inspect.iscoroutinefunction(answered)

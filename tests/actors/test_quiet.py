"""Ages of domains, asked for while others are heard of."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from actors.quiet import Quiet


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns at almost every step."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_ages_may_be_asked_for_while_new_domains_are_heard_of(hasty: None) -> None:
    quiet, done = Quiet(), threading.Event()
    errors: list[Exception] = []

    def ask() -> None:
        while not done.is_set():
            try:
                quiet.all()
            except Exception as error:
                errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    for number in range(6000):
        quiet.stir([f"domain-{number}"])
    done.set()
    asking.join()
    assert errors == [] and len(quiet.all()) == 6000

"""What a check costs says nothing of the key: 1,000,000 checks of texts that differ where a leak would show.

Kinds of text are checked in turn, in batches of CPU time, so that whatever else a machine does meets all alike. Two
kinds are told apart where, with each of several keys, the same one is the slower in clearly more than half of the
rounds, and by its median by more than 1 %: outliers move neither, where a key lies in memory is another each time, and
a few nanoseconds of a thousand are nobody's to see.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import pytest

from registry.key_form import digest_of
from registry.keys import AccessKey, Grant, KeyStore
from registry.registry import Registry
from serving.key_ring import KeyRing, _held

KEYS, ROUNDS, BATCH = 5, 500, 100
CLEARLY = 0.08
"""Almost four times what the share of rounds scatters by where nothing differs."""
MEDIANS = 0.01
GRANT = Grant(name="a", scopes=("infer",))


def wrong(secret: str) -> dict[str, str]:
    """Wrong texts of each kind: of the right id, wrong at the first or the last place; of an id that nobody has."""
    head, tail = secret[:-64], secret[-64:]

    def other_than(place: int) -> str:
        return random.choice([digit for digit in "0123456789abcdef" if digit != tail[place]])

    return {
        "first": head + other_than(0) + tail[1:],
        "middle": head + tail[:32] + other_than(32) + tail[33:],
        "last": head + tail[:-1] + other_than(63),
        "unknown": f"ab-{random.randbytes(6).hex()}-{tail}",
    }


Check = Callable[[str], object]


def told_apart(check_of: Callable[[AccessKey, str], Check], registry: Registry) -> set[tuple[str, str]]:
    """The kinds of which the first costs more than the second, whatever the key."""
    found = [_dearer(check_of, *KeyStore(registry.storage).create(GRANT)) for _ in range(KEYS)]
    return set.intersection(*found)


def _dearer(check_of: Callable[[AccessKey, str], Check], key: AccessKey, secret: str) -> set[tuple[str, str]]:
    check = check_of(key, secret)
    took: dict[str, list[int]] = {name: [] for name in wrong(secret)}
    for _ in range(ROUNDS):
        # Fresh texts, in any order: where one lies in memory, and what came before it, are no kind's own.
        kinds = list(wrong(secret).items())
        random.shuffle(kinds)
        for name, text in kinds:
            began = time.process_time_ns()
            for _ in range(BATCH):
                check(text)
            took[name].append(time.process_time_ns() - began)
    return {(one, other) for one, other in permutations(took, 2) if _is_dearer(took[one], took[other])}


def _is_dearer(one: list[int], other: list[int]) -> bool:
    slower = sum(0.5 if a == b else float(a > b) for a, b in zip(one, other, strict=True)) / len(one)
    return slower > 0.5 + CLEARLY and median(one) > (1 + MEDIANS) * median(other)


def of_a_ring(key: AccessKey, secret: str) -> Check:
    """The product's own."""
    ring, known = KeyRing(SimpleNamespace()), {key.id: _held(key)}  # type: ignore[arg-type]
    assert ring._compared(secret, known) == key
    assert {ring._compared(each, known) for each in wrong(secret).values()} == {"the key is not known"}
    return lambda text: ring._compared(text, known)


def by_place(key: AccessKey, secret: str) -> Check:
    """One that leaks: it stops at the first difference."""
    return lambda text: all(one == other for one, other in zip(text, secret, strict=True))


def where_known(key: AccessKey, secret: str) -> Check:
    """Another: it takes a digest only of what has an id that there is."""
    return lambda text: text[3:15] == key.id and digest_of(text) == key.secrets[0].digest


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.mark.slow
def test_a_million_checks_tell_no_wrong_key_from_another(registry: Registry) -> None:
    assert told_apart(of_a_ring, registry) == set()


@pytest.mark.slow
def test_a_check_that_leaks_is_told_by_the_same(registry: Registry) -> None:
    assert told_apart(by_place, registry) >= {("last", "middle"), ("middle", "first"), ("last", "first")}
    assert told_apart(where_known, registry) >= {("first", "unknown"), ("last", "unknown")}


def test_a_check_costs_far_less_than_a_tenth_of_a_millisecond(registry: Registry) -> None:
    key, text = KeyStore(registry.storage).create(GRANT)
    check, best = of_a_ring(key, text), math.inf
    for _ in range(20):
        began = time.process_time()
        for _ in range(200):
            check(text)
        best = min(best, (time.process_time() - began) / 200)
    assert best < 50e-6

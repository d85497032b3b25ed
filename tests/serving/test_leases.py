"""Leases: what is held, and until when."""

import pytest

from serving.engine import LoadedAdapter
from serving.leases import Leases
from serving.served import ServedDomain, ServedManifest


def served(number: int, *names: str) -> ServedManifest:
    adapters = {
        name.split("@")[0]: LoadedAdapter(name, index + 1, name.split("@")[0], 2) for index, name in enumerate(names)
    }
    domains = {domain: ServedDomain(adapter, {domain: adapter}) for domain, adapter in adapters.items()}
    return ServedManifest(number, None, None, domains)


def test_a_lease_holds_the_whole_manifest_until_it_is_narrowed() -> None:
    leases = Leases()
    lease = leases.take(served(1, "a@v1-0", "b@v1-0"))
    assert leases.held() == {"a@v1-0", "b@v1-0"}
    lease.narrow(["b@v1-0"])
    assert leases.held() == {"b@v1-0"}
    lease.release()
    assert leases.held() == set() and len(leases) == 0


def test_each_request_counts_and_a_second_release_does_not() -> None:
    leases = Leases()
    manifest = served(1, "a@v1-0")
    first, second = leases.take(manifest), leases.take(manifest)
    first.narrow(["a@v1-0"])
    first.release()
    first.release()
    assert leases.held() == {"a@v1-0"}
    second.release()
    assert leases.held() == set()


def test_a_request_for_the_base_holds_nothing() -> None:
    leases = Leases()
    lease = leases.take(served(1, "a@v1-0"))
    lease.narrow([])
    assert leases.held() == set()
    lease.release()
    assert len(leases) == 0


def test_release_and_narrowing_are_told() -> None:
    told: list[int] = []
    leases = Leases(lambda: told.append(1))
    with leases.take(served(1, "a@v1-0")) as lease:
        lease.narrow(["a@v1-0"])
        assert len(told) == 1
    assert len(told) == 2


def test_a_lease_is_narrowed_once() -> None:
    leases = Leases()
    lease = leases.take(served(1, "a@v1-0"))
    lease.narrow([])
    with pytest.raises(ValueError, match="narrowed once"):
        lease.narrow(["a@v1-0"])

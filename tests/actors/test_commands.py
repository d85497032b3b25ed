"""Commands of an operator: rollback, pin, unpin, removal."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from actors.errors import UnknownDomain
from streaming.records import EndOfDomain, TaskRecord
from tests.actors.house import Failing, House, limits, partition, records_of, training

Build = Callable[..., House]
ALPHA, BETA = EndOfDomain(domain="alpha"), EndOfDomain(domain="beta")


def ids(records: list[TaskRecord]) -> tuple[str, ...]:
    return tuple(sorted(record.id for record in records))


# -- commands ---------------------------------------------------------------------------------------------------------


def test_rollback_and_unpin(two_versions: House) -> None:
    house = two_versions
    one, two = (adapter.name for adapter in house.registry.adapters("alpha"))
    manifest = house.coordinator.rollback("alpha")
    assert (manifest.routes["alpha"].adapter, manifest.routes["alpha"].pinned) == (one, True)
    assert house.replicas.shelves[0].number == manifest.number
    with pytest.raises(UnknownDomain, match="before v1"):
        house.coordinator.rollback("alpha")
    # A pinned version stays, whatever is learned; the rows that were learned from are done with all the same.
    house.send([*records_of("alpha", 24, start=48), ALPHA])
    house.settle(lambda: len(house.registry.adapters("alpha")) == 3 and not house.waiting("alpha"))
    assert house.served("alpha") == one
    assert house.trainer.asked[-1][4] == house.registry.adapter(one).path
    house.coordinator.unpin("alpha")
    house.send([*records_of("alpha", 24, start=72), ALPHA])
    house.learn("alpha", 4)
    assert not house.current.routes["alpha"].pinned
    assert house.coordinator.rollback("alpha", two).routes["alpha"].adapter == two


def test_pinned_rows_survive_a_crash_after_they_were_released(two_versions: House) -> None:
    house = two_versions
    house.coordinator.rollback("alpha")
    house.send([*records_of("alpha", 24, start=48), ALPHA])
    house.settle(lambda: len(house.registry.adapters("alpha")) == 3 and not house.waiting("alpha"))
    house.crash()
    house.drain()
    house.check_exact(training([*records_of("alpha", 72), *records_of("beta", 24)]))


def test_pin_names_a_version(two_versions: House) -> None:
    house = two_versions
    one, two = (adapter.name for adapter in house.registry.adapters("alpha"))
    assert house.coordinator.pin("alpha").routes["alpha"].adapter == two
    manifest = house.coordinator.pin("alpha", one)
    assert (manifest.routes["alpha"].adapter, manifest.routes["alpha"].pinned) == (one, True)
    assert manifest.routes["beta"] == house.registry.manifest(manifest.number - 1).routes["beta"]


def test_commands_that_name_what_is_not_there(two_versions: House) -> None:
    before, coordinator = two_versions.current, two_versions.coordinator
    for command, arguments in [
        (coordinator.rollback, ("nobody",)),
        (coordinator.rollback, ("alpha", "alpha@v9-00000000")),
        (coordinator.rollback, ("beta",)),
        (coordinator.pin, ("nobody",)),
        (coordinator.pin, ("alpha", two_versions.served("beta"))),
        (coordinator.unpin, ("nobody",)),
        (coordinator.remove, ("nobody",)),
    ]:
        with pytest.raises(UnknownDomain):
            command(*arguments)  # type: ignore[arg-type]
    assert two_versions.current == before


def test_removal(two_versions: House) -> None:
    house = two_versions
    house.send(records_of("alpha", 12, start=48))
    house.drain()
    manifest = house.coordinator.remove("alpha")
    assert (set(manifest.routes), manifest.examples) == ({"beta"}, {"beta": 18})
    assert set(house.replicas.shelves[0].adapters) == {"beta"}
    house.settle(lambda: house.waiting("alpha") == 0)
    house.check_exact(training(records_of("beta", 24)))
    assert [adapter.domain for adapter in house.registry.adapters()] == ["beta"], "nothing of it stays"
    assert "alpha" not in [each.domain for each in house.coordinator.domains()]
    house.crash()
    house.drain()
    house.check_exact(training(records_of("beta", 24)))
    # It may come back, with the very same examples, as a new version from the base.
    house.send([*records_of("alpha", 24), ALPHA])
    house.learn("alpha", 3)
    assert house.trainer.asked[-1][4] is None
    house.check_exact(training([*records_of("alpha", 24), *records_of("beta", 24)]))


def test_removal_while_the_domain_is_learned(build: Build) -> None:
    """New examples of the same name are a new domain; what was learned before is not served for it."""
    house = build()
    again = records_of("alpha", 24, start=100)

    def meanwhile(_domain: str) -> None:
        house.trainer.before = lambda _domain: None
        house.coordinator.remove("alpha")
        house.send(again)
        house.drain()

    house.trainer.before = meanwhile
    house.send([*records_of("alpha", 24), ALPHA])
    house.settle(lambda: bool(house.registry.adapters("alpha")))
    for _ in range(3):
        house.tick()
    assert house.current.routes == {}
    house.settle(lambda: house.waiting("alpha") == 24)
    house.check_exact(training(again))
    house.send([ALPHA])
    house.learn("alpha", 2)
    assert house.trained("alpha")[1] == ids(training(again))


def test_removal_before_the_learner_has_fetched_what_was_ordered(build: Build) -> None:
    house = build()
    house.trainer.ordered = lambda _domain: house.coordinator.remove("alpha")
    house.send([*records_of("alpha", 24), ALPHA, *records_of("beta", 24)])
    house.settle(lambda: bool(house.trainer.asked))
    house.trainer.ordered = lambda _domain: None
    for _ in range(3):
        house.tick()
    assert (house.current.routes, house.registry.adapters()) == ({}, [])
    assert "alpha" not in [each.domain for each in house.coordinator.domains()]
    house.send([BETA])
    house.learn("beta")


def test_removal_between_polling_and_observing(build: Build) -> None:
    """What was read of a domain goes with it, counted or not; what is read later begins it anew."""
    house = build(partitions=1)
    first, second = records_of("alpha", 24), records_of("alpha", 24, start=24)
    house.send([*first, ALPHA])
    house.learn("alpha")
    house.send(second[:12])
    house.drain()
    house.send(second[12:18])
    house.poll()
    house.coordinator.remove("alpha")
    house.send(second[18:])
    house.drain()
    house.check_exact(training(second[18:]))
    house.settle(lambda: house.waiting("alpha") == 6)
    house.send([ALPHA])
    house.learn("alpha", 2)
    assert house.trained("alpha")[-1] == ids(training(second[18:]))


def test_removal_reaches_over_what_lies_behind_a_full_spool(build: Build) -> None:
    """Nothing is read while the domain to be removed fills the spool; what lies in the stream goes too."""
    house = build(partitions=1, options=limits(spool_limit=12, poll_records=6))
    first, later = records_of("alpha", 24), records_of("alpha", 6, start=24)
    house.send([*first, ALPHA])
    for _ in range(4):
        house.poll()
        house.observe()
    report = house.ingests[0].report()
    assert report.full and report.positions == {partition(0): 12} and report.ends == {partition(0): 25}
    house.coordinator.remove("alpha")
    house.send(later)
    house.drain()
    assert house.waiting("alpha") == 6 and house.markers("alpha") == 0
    house.check_exact(training(later))
    house.send([ALPHA])
    house.learn("alpha")
    assert house.trained("alpha") == [ids(training(later))]


def test_removal_reaches_over_a_partition_of_which_nothing_was_read(build: Build) -> None:
    house = build(partitions=2)
    first, later = records_of("alpha", 24), records_of("alpha", 24, start=24)
    source = house.ingests[0]._source
    source.pause([partition(1)])
    house.send(first)
    ends = house.stream.ends()
    house.poll()
    house.observe()
    assert ends[partition(1)] > 0 and house.ingests[0].report().positions[partition(1)] == 0
    house.coordinator.remove("alpha")
    house.send([*later, ALPHA])
    source.resume([partition(1)])
    house.drain()
    house.check_exact(training(later))
    house.learn("alpha")
    assert house.trained("alpha") == [ids(training(later))]


def test_removal_reaches_as_far_as_a_silent_worker_last_saw(build: Build) -> None:
    """Another worker reads on in its place, from where the dead one stood."""
    house = build(partitions=2, workers=2)
    first, later = records_of("alpha", 24), records_of("alpha", 24, start=24)
    house.ingests[1]._source.pause([partition(1)])
    house.send(first)
    house.poll()
    house.observe()
    house.tick()
    house.ingests[1].report = Failing(house.ingests[1], "report", 1, OSError("it died")).report  # type: ignore[method-assign]
    house.coordinator.remove("alpha")
    house.employ_workers(1)
    house.send(later)
    house.drain()
    house.check_exact(training(later))


def test_a_removal_may_be_repeated(two_versions: House) -> None:
    house = two_versions
    removal = house.coordinator.remove("alpha")
    assert house.coordinator.remove("alpha") == removal == house.current
    house.crash()
    assert house.coordinator.remove("alpha") == removal
    with pytest.raises(UnknownDomain, match="was removed with manifest"):
        house.coordinator.rollback("alpha", "alpha@v1-00000000")

"""Commands of an operator: rollback, pin, unpin, removal."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from actors.errors import UnknownDomain
from streaming.records import EndOfDomain, TaskRecord
from tests.actors.house import Failing, House, limits, partition, records_of, training

Build = Callable[..., House]
ALPHA, BETA = EndOfDomain(domain="alpha"), EndOfDomain(domain="beta")


def ids(records: list[TaskRecord]) -> tuple[str, ...]:
    return tuple(sorted(record.id for record in records))


def is_done(house: House, trainings: int) -> bool:
    """Whether so many trainings were asked for, and no row of alpha waits any more."""
    return len(house.trainer.asked) == trainings and not house.waiting("alpha")


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
    assert house.coordinator.unpin("alpha").routes["alpha"].version == 3
    house.send([*records_of("alpha", 24, start=72), ALPHA])
    house.learn("alpha", 4)
    assert not house.current.routes["alpha"].pinned
    assert house.coordinator.rollback("alpha", two).routes["alpha"].adapter == two


def test_what_is_learned_under_a_pin_serves_after_it(two_versions: House) -> None:
    """Each version goes on from the one before it, and the last one waits: over restarts, and over pruning."""
    house = two_versions
    two = house.coordinator.pin("alpha").routes["alpha"].adapter
    last = house.registry.adapter(two)
    for version, start in ((3, 48), (4, 72)):
        house.send([*records_of("alpha", 24, start=start), ALPHA])
        house.settle(partial(is_done, house, version + 1))
        house.crash()
        before, last = last, house.registry.adapters("alpha")[-1]
        assert (last.version, house.trainer.asked[-1][4]) == (version, before.path)
        assert (house.served("alpha"), house.current.withdrawn) == (two, {"alpha": last.name})
        house.registry.prune(1, 1, 1)
        number = house.current.number
        house.tick()
        assert house.current.number == number, "it is not tried while the pin holds"
    manifest = house.coordinator.unpin("alpha")
    assert (manifest.routes["alpha"], manifest.withdrawn) == (last.route(), {})
    assert house.replicas.shelves[0].number == manifest.number
    assert house.coordinator.unpin("alpha") == manifest
    house.tick()
    assert house.current == manifest
    house.check_exact(training([*records_of("alpha", 96), *records_of("beta", 24)]))


def test_a_removal_takes_what_waits_under_a_pin(two_versions: House) -> None:
    house = two_versions
    house.coordinator.pin("alpha")
    house.send([*records_of("alpha", 24, start=48), ALPHA])
    house.settle(lambda: bool(house.current.withdrawn) and not house.waiting("alpha"))
    waiting = house.current.withdrawn["alpha"]
    manifest = house.coordinator.remove("alpha")
    assert (manifest.withdrawn, manifest.removed["alpha"].version) == ({}, 3)
    with pytest.raises(UnknownDomain, match="was removed with manifest"):
        house.coordinator.rollback("alpha", waiting)


def test_pinned_rows_survive_a_crash_after_they_were_released(two_versions: House) -> None:
    house = two_versions
    house.coordinator.rollback("alpha")
    house.send([*records_of("alpha", 24, start=48), ALPHA])
    house.settle(lambda: len(house.registry.adapters("alpha")) == 3 and not house.waiting("alpha"))
    house.crash()
    house.drain()
    house.check_exact(training([*records_of("alpha", 72), *records_of("beta", 24)]))


def test_a_rollback_passes_over_a_damaged_version_and_says_so(two_versions: House) -> None:
    house = two_versions
    house.send([*records_of("alpha", 24, start=48), ALPHA])
    house.learn("alpha", 3)
    one, two, _ = (adapter.name for adapter in house.registry.adapters("alpha"))
    (house.registry.root / "adapters" / two / "anabranch.json").write_text("{")
    for command in (house.coordinator.rollback, house.coordinator.pin):
        with pytest.raises(UnknownDomain, match=rf"{two} can't be served: .*damaged"):
            command("alpha", two)
    manifest = house.coordinator.rollback("alpha")
    assert manifest.routes["alpha"].adapter == one
    assert manifest.reason == f"rolled back to {one}; damaged and passed over: {two}"


def test_a_rollback_with_nothing_but_damaged_versions_before_names_them(two_versions: House) -> None:
    house = two_versions
    one, _ = (adapter.name for adapter in house.registry.adapters("alpha"))
    (house.registry.root / "adapters" / one / "anabranch.json").write_text("{")
    with pytest.raises(UnknownDomain, match=rf"no accepted version before v2; damaged and passed over: {one}"):
        house.coordinator.rollback("alpha")


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

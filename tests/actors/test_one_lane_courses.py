"""Random courses of one lane: at rest nothing is served by halves, stuck, left behind or known of what was removed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random

import pytest

from actors.errors import ActorError
from registry.errors import RegistryError
from tests.actors.house import Crash
from tests.actors.lane import LaneHouse, check_one

DOMAINS = ("alpha", "beta", "gamma")


class Course:
    """What happens to a house, drawn from a number; `told` is what has."""

    def __init__(self, house: LaneHouse, seed: int) -> None:
        self.house, self.random, self.told = house, Random(seed), list[str]()
        self.fed = dict.fromkeys(DOMAINS, 0)
        house.learner.changes_base = self.random.random() < 0.3
        house.learner.keeps_state = self.random.random() < 0.7

    def feed(self, domain: str) -> None:
        self.house.feed(domain, start=self.fed[domain])
        self.fed[domain] += 8

    def run(self, steps: int) -> None:
        for _ in range(steps):
            what = self.random.choice(
                ["feed"] * 4 + ["move"] * 6 + ["remove", "die", "die"] + ["command"] * 2 + ["meet"]
            )
            domain = self.random.choice(DOMAINS)
            self.told.append(f"{what} {domain}")
            getattr(self, what)(domain)
        self.rest()

    def move(self, _domain: str) -> None:
        house = self.house
        try:
            house.drain()
            house.tick()
            house.wait(self.random.choice([0.0, 3.0, 700.0]))
        except Crash:
            self.come_back()

    def die(self, _domain: str) -> None:
        """Somewhere at the router, or between what a training leaves."""
        left = self.random.randrange(12)

        def dies(name: str) -> None:
            nonlocal left
            left -= name in {"publish", "seal", "renumber", "reopen", "open"}
            if left < 0:
                self.told.append(f"died at {name}")
                raise Crash

        if self.random.random() < 0.5:
            self.house.router.on_call = dies
            return
        registry = self.house.registry
        for store, name in ((registry, "add_adapter"), (registry.states, "put"), (registry.bases, "put")):
            self._kill_after(store, name)

    def _kill_after(self, store: object, name: str) -> None:
        done = getattr(store, name)
        left = self.random.randrange(3)

        def dies(*args: object, **kwargs: object) -> object:
            nonlocal left
            found = done(*args, **kwargs)
            left -= 1
            if left < 0:
                self.told.append(f"died after {name}")
                raise Crash
            return found

        setattr(store, name, dies)

    def come_back(self) -> None:
        self.house.router.on_call = lambda _name: None
        self.house.crash()

    def remove(self, domain: str) -> None:
        self.command(domain, "remove")

    def command(self, domain: str, name: str = "") -> None:
        name = name or self.random.choice(["pin", "unpin", "rollback"])
        self.told[-1] = f"{name} {domain}"
        try:
            with suppress(ActorError, RegistryError):
                getattr(self.house.coordinator, name)(domain)
        except Crash:
            self.come_back()

    def meet(self, domain: str) -> None:
        """Something goes wrong, or not any more, or happens during the next training."""
        house, what = self.house, self.random.choice(["refuse", "take", "forget", "remember", "during"])
        self.told[-1] = f"{what} {domain}"
        if what in {"refuse", "take"}:
            house.replicas.shelves[0].refuses = {domain} if what == "refuse" else set()
        elif what in {"forget", "remember"}:
            house.learner.forgets = {domain} if what == "forget" else set()
        else:

            def during(_trained: str) -> None:
                house.trainer.before = lambda _domain: None
                with suppress(ActorError, RegistryError):
                    house.coordinator.remove(domain)

            house.trainer.before = during

    def rest(self) -> None:
        house = self.house
        self.come_back()
        house.trainer.before, house.learner.forgets = (lambda _domain: None), set()
        for domain in DOMAINS:
            self.feed(domain)
        for _ in range(40):
            house.drain()
            house.tick()
            house.wait(700.0)
            for domain in DOMAINS:
                with suppress(ActorError, RegistryError):
                    house.coordinator.unpin(domain)
        self.judge()

    def judge(self) -> None:
        house, current = self.house, self.house.current
        assert set(current.routes) == set(DOMAINS), (set(current.routes), [house.state(domain) for domain in DOMAINS])
        assert not current.withdrawn
        for domain in DOMAINS:
            found = house.state(domain)
            assert found is not None and found.state != "failed" and not house.waiting(domain), found
        assert all(each.seal is None for each in house.router.open().values())
        for route in current.routes.values():
            served = house.router.versions(route.adapter.split("@")[0])
            assert route.version in served, "it is known to the ledger"
        check_one(house, current)
        given = [(adapter.domain, adapter.version) for adapter in house.registry.adapters()]
        assert len(given) == len(set(given))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_a_course_comes_to_rest_and_is_right(lane: Callable[..., LaneHouse], seed: int) -> None:
    run(lane(), seed)


def run(house: LaneHouse, seed: int) -> None:
    course = Course(house, seed)
    try:
        course.run(25)
    except BaseException as error:
        raise AssertionError(f"course {seed}: {', '.join(course.told)}") from error

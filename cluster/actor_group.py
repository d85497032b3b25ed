"""The actors of one system as remote actors: started, found by name, asked, stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import ActorDiedError, RayTaskError

from actors.errors import Unreachable, in_words
from actors.making import HostVitals
from actors.supervision import GivenUp, HostsPort, Supervisor
from cluster import names
from cluster.actor_host import ActorHost, AsyncActorHost
from cluster.errors import ClusterError
from configs.settings import Settings
from serving.api import ActorStatus


@dataclass(frozen=True)
class _Plan:
    """How an actor is started; `maker` is the function that makes it, as `package.module:function`."""

    host: type[ActorHost | AsyncActorHost]
    maker: str
    arguments: tuple[Any, ...] = ()
    concurrency: int = 1
    cpus: float = 0.0
    gpus: float = 0.0


LEARNER = "cluster.compute_actors:learner"


def _plans(settings: Settings, learner_maker: str) -> dict[str, _Plan]:
    ingest, learner = settings.ingest, settings.learner
    plans = {
        names.DIRECTORY: _Plan(AsyncActorHost, "cluster.control_actors:directory", concurrency=1000),
        names.ROUTER: _Plan(ActorHost, "cluster.control_actors:router", cpus=settings.router.num_cpus),
    }
    if settings.serving.keys_required:
        plans[names.METER] = _Plan(AsyncActorHost, "cluster.control_actors:meter", concurrency=1000)
    for index in range(ingest.workers):
        plans[names.ingest(index)] = _Plan(
            ActorHost, "cluster.compute_actors:ingest", (index,), 4, ingest.num_cpus, ingest.num_gpus
        )
    for index in range(learner.workers.most):
        plans[names.learner(index)] = _Plan(ActorHost, learner_maker, (index,), 4, learner.num_cpus, learner.num_gpus)
    plans[names.COORDINATOR] = _Plan(ActorHost, "cluster.control_actors:coordinator", concurrency=16)
    return plans


def remote_of(host: type[ActorHost | AsyncActorHost]) -> Any:
    """Return a host as Ray starts it: who asks for vitals does not wait behind other calls."""
    ray.method(concurrency_group="vitals")(host.vitals)
    groups: Any = {"concurrency_groups": {"vitals": 1}}
    return ray.remote(**groups)(host)


class ActorGroup:
    """Directory, router, meter, ingest workers, learners and coordinator. Whoever makes the actors owns them: they end
    with its process. `learner` is the function that makes a learner of settings and index, as
    `package.module:function`."""

    def __init__(self, settings: Settings, *, learner: str = LEARNER) -> None:
        self._settings, self._plans = settings, _plans(settings, learner)
        self._actors: dict[str, Any] = {}
        self._faults: dict[str, str] = {}

    def supervised(self) -> Supervisor:
        """Start the actors, and return who watches them."""
        workers = self._settings.learner.workers
        learners = [names.learner(index) for index in range(workers.most)]
        always = [name for name in self._plans if name not in learners]
        return Supervisor(self, always, learners, workers.fewest)

    def make(self, name: str) -> None:
        """Start an actor; Ray starts it again whenever its process or node dies."""
        plan = self._plans[name]
        # Workers that share a GPU are packed onto few of them; what spreads is what takes a whole one.
        spread = self._settings.ray.placement == "spread" and (plan.gpus == 0 or plan.gpus >= 1)
        options = {
            "name": name,
            "namespace": names.NAMESPACE,
            "num_cpus": plan.cpus,
            "num_gpus": plan.gpus,
            "max_restarts": -1,
            "max_concurrency": plan.concurrency,
            "scheduling_strategy": "SPREAD" if spread else "DEFAULT",
        }
        self._actors.pop(name, None)
        try:
            made = remote_of(plan.host).options(**options).remote(plan.maker, self._settings, *plan.arguments)
        except Exception as error:
            # The name of one that ends is free a moment later.
            self._faults[name] = in_words(error)
        else:
            self._actors[name] = made

    def end(self, name: str) -> None:
        """End an actor's process; Ray starts it again."""
        with suppress(Exception):
            ray.kill(self._actors[name], no_restart=False)

    def dismiss(self, name: str) -> None:
        """End an actor for good."""
        with suppress(Exception):
            ray.kill(self._actors.pop(name))

    def ask(self, name: str) -> Future[HostVitals]:
        """Ask an actor how it is; see `HostsPort`."""
        if name not in self._actors:
            return _failed(GivenUp(f"could not be started: {self._faults.get(name, 'unknown')}"))
        return _answer(lambda: self._actors[name].vitals.remote())

    def advise(self, actors: Sequence[ActorStatus]) -> Future[frozenset[str]]:
        """Tell the coordinator how all are; see `HostsPort`."""
        return _answer(lambda: self._actors[names.COORDINATOR].call.remote("supervise", actors))

    def stop(self) -> None:
        """Stop the loops in the order that loses nothing, then end the actors."""
        for name in (names.COORDINATOR, *map(names.ingest, range(self._settings.ingest.workers))):
            with suppress(Exception):
                ray.get(self._actors[name].call.remote("stop"), timeout=15)
        for name in list(self._actors):
            self.dismiss(name)


def _failed(error: Exception) -> Future[Any]:
    failed: Future[Any] = Future()
    failed.set_exception(error)
    return failed


def _answer(ask: Callable[[], Any]) -> Future[Any]:
    """Return what a remote call will answer; fails with `GivenUp` where the actor is dead for good."""
    answer: Future[Any] = Future()

    def pass_on(done: Future[Any]) -> None:
        try:
            answer.set_result(done.result())
        except ActorDiedError:
            answer.set_exception(GivenUp("its process ended for good"))
        except RayTaskError as error:
            answer.set_exception(error)
        except BaseException as error:
            answer.set_exception(Unreachable(f"its process does not answer ({type(error).__name__})"))

    try:
        ask().future().add_done_callback(pass_on)
    except Exception as error:
        return _failed(error)
    return answer


def check_resources(settings: Settings) -> None:
    """Check that the Ray cluster holds what the actors reserve; otherwise they would wait until nodes are added."""
    ingest, learner, serving = settings.ingest, settings.learner, settings.serving
    needed = {
        "CPU": ingest.workers * ingest.num_cpus
        + settings.router.num_cpus
        + max(learner.workers.fewest, 1) * learner.num_cpus
        + serving.replicas.fewest * serving.num_cpus,
        "GPU": ingest.workers * ingest.num_gpus
        + max(learner.workers.fewest, 1) * learner.num_gpus
        + serving.replicas.fewest * serving.num_gpus,
    }
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for kind, amount in needed.items():
        if amount > there.get(kind, 0.0) + 1e-9:
            raise ClusterError(
                f"the actors reserve {amount:g} {kind}, the cluster has {there.get(kind, 0.0):g}; lower "
                f"num_{kind.lower()}s or the number of workers, or add nodes"
            )


if TYPE_CHECKING:

    def _meets(actors: ActorGroup) -> HostsPort:
        return actors

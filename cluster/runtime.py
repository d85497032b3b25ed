"""A whole Anabranch, started and stopped: Ray, the actors, the replicas and the front door.

    checks -> lock on the home folder -> Ray, Serve, HAProxy -> directory, router -> ingest, learners -> coordinator
           -> replicas

Everything that can be refused is refused before anything is started; when a later step fails, what was started is
taken down again. A dead actor is started again, by Ray or by the supervisor, and finds its state on disk.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from typing import Any, Self

import httpx
import ray
from ray import serve
from ray.serve.schema import ApplicationStatus

from actors.supervision import Supervisor
from cluster import names
from cluster.actor_group import LEARNER, ActorGroup, check_resources
from cluster.errors import ClusterError
from cluster.frontdoor import Start, application
from cluster.preflight import HomeLock, check_surroundings, free_port
from cluster.remote import Remote
from configs.settings import Settings
from serving.balancer import Balancer
from serving.errors import ServingError

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Ray would run its workers at 15, behind everything else on the machine; here they are the work.
    "RAY_worker_niceness": "0",
    # A replica answers on the loop that Ray runs its actor on, which is uvloop's, and not on another beside it.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # Each call is an event that the head keeps for the dashboard: of 100,000 by default it grows for hours.
    "RAY_task_events_max_num_task_in_gcs": "10000",
}


class Runtime:
    """A running system; use as a context manager. `url` is where its front door answers.

    `learner` makes its learners (`ActorGroup`), `start` each replica's service (`frontdoor.application`).
    """

    def __init__(self, settings: Settings, *, learner: str = LEARNER, start: Start | None = None) -> None:
        self.settings, self._learner, self._start = settings, learner, start
        self.url = ""
        self._lock: HomeLock | None = None
        self._actors: ActorGroup | None = None
        self._balancer: Balancer | None = None
        self._supervisor: Supervisor | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout_s: float = 300.0) -> None:
        """Start everything and return once the front door is ready.

        Raises `ClusterError`, `ConfigError` or `StreamError`, one line, when something stands in the way.
        """
        port = free_port(self.settings)
        self._lock = check_surroundings(self.settings)
        try:
            self._balancer = balancer(self.settings, port)
            self._start_ray()
            check_resources(self.settings)
            # Serve's small process first: it would time out behind the heavy imports of ours. None of its proxies.
            serve.start(proxy_location="Disabled")
            self._balancer.start()
            self._actors = ActorGroup(self.settings, learner=self._learner)
            self._supervisor = self._actors.supervised()
            self._supervisor.start()
            replicas = application(self.settings, start=self._start)
            serve.run(replicas, name=self.settings.name, route_prefix=None, blocking=False)
            self.url = (
                f"{'https' if self.settings.serving.tls.certificate else 'http'}://{self.settings.serving.host}:{port}"
            )
            self._wait_until_ready(self._balancer, self._supervisor, timeout_s)
        except BaseException as error:
            self.stop()
            if isinstance(error, ServingError):
                raise ClusterError(str(error)) from error
            raise

    def stop(self) -> None:
        """Take everything down, in the order that loses nothing."""
        if ray.is_initialized():
            with suppress(Exception):
                # In a cluster of our own the controller ends with it; elsewhere it would stay behind.
                if self.settings.ray.address is None:
                    serve.delete(self.settings.name)
                else:
                    serve.shutdown()  # type: ignore[no-untyped-call]
            if self._supervisor is not None:
                self._supervisor.stop()
            if self._actors is not None:
                self._actors.stop()
        if self._balancer is not None:
            # To the last, so that clients are answered; but it asks by Ray.
            self._balancer.stop()
        if ray.is_initialized():
            ray.shutdown()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _start_ray(self) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        options = self.settings.ray
        common: dict[str, Any] = {
            "namespace": names.NAMESPACE,
            "log_to_driver": bool(os.environ.get("ANABRANCH_LOG_TO_DRIVER")),
            "logging_level": "ERROR",
            "configure_logging": True,
        }
        if options.address is not None:
            try:
                ray.init(address=options.address, **common)
            except ConnectionError as error:
                raise ClusterError(
                    f"ray.address {options.address}: no Ray cluster answers there; start one with "
                    "`ray start --head` or leave ray.address out"
                ) from error
            return
        ray.init(
            # Not whatever cluster may run on this machine already.
            address="local",
            num_cpus=options.num_cpus,
            include_dashboard=options.include_dashboard,
            object_store_memory=options.object_store_bytes,
            **common,
        )

    def _wait_until_ready(self, balancer: Balancer, supervisor: Supervisor, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        said = "nothing"
        inside = httpx.Client(transport=httpx.HTTPTransport(uds=str(balancer.inner)), base_url="http://inside")
        while time.monotonic() < deadline:
            self._fail_if_replicas_do()
            if failing := supervisor.failing():
                raise ClusterError(f"an actor does not start: {failing}")
            try:
                answer = inside.get("/readyz", timeout=10)
                waits = supervisor.awaited()
                if answer.status_code == 200 and not waits:
                    return
                said = f"status {answer.status_code}" if answer.status_code != 200 else f"no {', '.join(waits)}"
            except httpx.HTTPError as error:
                said = str(error)
            time.sleep(0.25)
        raise ClusterError(f"front door {self.url}: not ready within {timeout_s:.0f} s, got {said}; see Ray's logs")

    def _fail_if_replicas_do(self) -> None:
        found = serve.status().applications.get(self.settings.name)
        if found is not None and found.status == ApplicationStatus.DEPLOY_FAILED:
            reasons = [deployment.message for deployment in found.deployments.values()]
            raise ClusterError(f"the replicas do not start: {' '.join(reasons) or found.message}")


def balancer(settings: Settings, port: int) -> Balancer:
    """Return what leads clients, who come to `port`, to the replicas that the directory knows."""
    serving, directory = settings.serving, Remote.named(names.DIRECTORY)
    most, body_s = serving.replicas.most, serving.access.body_seconds
    return Balancer(serving.host, port, directory.addresses, most=most, tls=serving.tls, body_seconds=body_s)

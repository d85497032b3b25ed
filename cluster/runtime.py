"""A whole Anabranch, started and stopped: Ray, the actors, the replicas and the front door.

    checks -> lock on the home folder -> Ray, Serve -> directory, router -> ingest, learners -> coordinator -> replicas

Everything that can be refused is refused before anything is started; when a later step fails, what was started is
taken down again. A dead actor is started again by Ray and finds its state on disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx
import ray
from ray import serve

from cluster import builders, names
from cluster.errors import ClusterError
from cluster.frontdoor import application, http_options
from configs.checks import check_paths
from configs.settings import Settings
from registry.errors import RegistryError
from registry.registry import Registry
from streaming.errors import StreamError
from streaming.location import ensure_topic

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # On a busy machine Serve's own limits (5 and 10 s) would kill a proxy that is merely slow to start.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
}


class Runtime:
    """A running system; use as a context manager. `url` is where its front door answers."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = ""
        self._lock: int | None = None
        self._own_ray = False
        self._actors: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout_s: float = 300.0) -> None:
        """Start everything and return once the front door is ready.

        Raises `ClusterError` or `configs.errors.ConfigError`, one line, when something stands in the way.
        """
        port = self._check()
        try:
            self._start_ray()
            self._check_resources()
            # Serve's small processes first: they would time out behind the heavy imports of ours.
            serve.start(http_options=http_options(self.settings, port))
            self._start_actors()
            serve.run(application(self.settings), name=self.settings.name, blocking=False)
            self.url = f"http://{self.settings.serving.host}:{port}"
            self._wait_until_ready(timeout_s)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Take everything down, in the order that loses nothing."""
        if ray.is_initialized():
            with suppress(Exception):
                serve.shutdown()
            for name in (names.COORDINATOR, *map(names.ingest, range(self.settings.ingest.workers))):
                with suppress(Exception):
                    ray.get(self._actors[name].stop.remote(), timeout=15)
            for actor in self._actors.values():
                with suppress(Exception):
                    ray.kill(actor)
            self._actors.clear()
            ray.shutdown()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- before anything runs -----------------------------------------------------------------------------------------

    def _check(self) -> int:
        check_paths(self.settings)
        self._lock_home()
        self._check_base()
        try:
            ensure_topic(
                builders.stream_location(self.settings),
                self.settings.stream.partitions,
                options=builders.kafka_options(self.settings),
            )
        except StreamError as error:
            raise ClusterError(str(error)) from error
        return self._free_port()

    def _lock_home(self) -> None:
        home = self.settings.home
        home.mkdir(parents=True, exist_ok=True)
        lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise ClusterError(
                f"home {home}: another Anabranch is running on it; stop that one or set another `home`"
            ) from error
        self._lock = lock

    def _check_base(self) -> None:
        try:
            current = Registry(builders.registry_root(self.settings)).current()
        except RegistryError as error:
            raise ClusterError(str(error)) from error
        if current is not None and current.base.digest != builders.base_revision(self.settings).digest:
            raise ClusterError(
                f"home {self.settings.home}: its adapters belong to base {current.base.model} "
                f"({current.base.digest[:12]}), got base.model={self.settings.base.model} "
                f"({builders.base_revision(self.settings).digest[:12]}); use that base or another `home`"
            )

    def _free_port(self) -> int:
        host, port = self.settings.serving.host, self.settings.serving.port
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise ClusterError(
                    f"serving.port {host}:{port}: cannot listen there ({error.strerror}); "
                    "free it or choose another with --set serving.port=N (0 takes any free one)"
                ) from error
            return int(probe.getsockname()[1])

    # -- starting -----------------------------------------------------------------------------------------------------

    def _start_ray(self) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        options = self.settings.ray
        common: dict[str, Any] = {
            "namespace": names.NAMESPACE,
            "log_to_driver": bool(os.environ.get("ANABRANCH_LOG_TO_DRIVER")),
            "logging_level": "ERROR",
            "configure_logging": True,
        }
        # Joining a cluster whose nodes lack our environment is the deployment's business; here we start our own.
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
            num_cpus=options.num_cpus,
            include_dashboard=options.include_dashboard,
            object_store_memory=options.object_store_bytes,
            **common,
        )
        self._own_ray = True

    def _check_resources(self) -> None:
        settings = self.settings
        needed = {
            "CPU": settings.ingest.workers * settings.ingest.num_cpus
            + settings.router.num_cpus
            + settings.learner.workers * settings.learner.num_cpus
            + settings.serving.replicas * settings.serving.num_cpus,
            "GPU": settings.ingest.workers * settings.ingest.num_gpus
            + settings.learner.workers * settings.learner.num_gpus
            + settings.serving.replicas * settings.serving.num_gpus,
        }
        there = ray.cluster_resources()
        for kind, amount in needed.items():
            if amount > there.get(kind, 0.0) + 1e-9:
                raise ClusterError(
                    f"the actors reserve {amount:g} {kind}, the cluster has {there.get(kind, 0.0):g}; lower "
                    f"num_{kind.lower()}s or the number of workers, or add nodes"
                )

    def _start_actors(self) -> None:
        from cluster import hosts

        settings = self.settings
        self._spawn(names.DIRECTORY, hosts.DirectoryHost, concurrency=1000)
        self._spawn(names.ROUTER, hosts.RouterHost, cpus=settings.router.num_cpus)
        for index in range(settings.ingest.workers):
            ingest = settings.ingest
            self._spawn(
                names.ingest(index), hosts.IngestHost, index, cpus=ingest.num_cpus, gpus=ingest.num_gpus, concurrency=4
            )
        for index in range(settings.learner.workers):
            chosen = settings.learner
            self._spawn(
                names.learner(index),
                hosts.LearnerHost,
                index,
                cpus=chosen.num_cpus,
                gpus=chosen.num_gpus,
                concurrency=2,
            )
        self._spawn(names.COORDINATOR, hosts.CoordinatorHost, concurrency=16)

    def _spawn(
        self,
        name: str,
        host: type,
        *args: Any,
        cpus: float = 0.0,
        gpus: float = 0.0,
        concurrency: int | None = None,
    ) -> None:
        options: dict[str, Any] = {
            "name": name,
            "num_cpus": cpus,
            "num_gpus": gpus,
            "max_restarts": self.settings.ray.max_restarts,
            "scheduling_strategy": "SPREAD" if self.settings.ray.placement == "spread" else "DEFAULT",
        }
        if concurrency is not None:
            options["max_concurrency"] = concurrency
        self._actors[name] = ray.remote(host).options(**options).remote(self.settings, *args)

    def _wait_until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        said = "nothing"
        while time.monotonic() < deadline:
            try:
                answer = httpx.get(f"{self.url}/readyz", timeout=10)
                if answer.status_code == 200:
                    ray.get(self._actors[names.COORDINATOR].status.remote(), timeout=60)
                    self._note_address()
                    return
                said = f"status {answer.status_code}"
            except httpx.HTTPError as error:
                said = str(error)
            time.sleep(0.2)
        raise ClusterError(f"front door {self.url}: not ready within {timeout_s:.0f} s, got {said}; see Ray's logs")

    def _note_address(self) -> None:
        note = {"url": self.url, "pid": os.getpid(), "command": sys.argv[:1]}
        Path(self.settings.home / "address.json").write_text(json.dumps(note))

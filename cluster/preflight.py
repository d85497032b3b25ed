"""What is checked before anything is started: whatever can be refused is refused here, in one line."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import get_args

from actors.errors import ActorError
from cluster import builders
from cluster.errors import ClusterError
from configs.checks import check
from configs.settings import Settings
from learning.architecture import check_supported, read_config
from learning.checkpoint import layer_count, resolve
from learning.errors import LearningError
from registry.audit import AuditLog
from registry.errors import RegistryError
from registry.keys import Grant, KeyStore, Scope
from streaming.location import ensure_topic

FIRST_KEY = "ANABRANCH_FIRST_KEY"
"""The environment variable that holds a first key, of all scopes."""


class HomeLock:
    """The right to be the one system on a home folder; the operating system frees it when the process ends."""

    def __init__(self, home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._file = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise ClusterError(
                f"home {home}: another Anabranch is running on it; stop that one or set another `home`"
            ) from error

    def release(self) -> None:
        """Free the folder."""
        os.close(self._file)


def check_surroundings(settings: Settings) -> HomeLock:
    """Check paths, GPU memory, home folder, base model and stream; returns the lock on the home folder.

    What can't be is a `ClusterError`, a `ConfigError` or a `StreamError`.
    """
    check(settings)
    location, options = builders.stream_location(settings), builders.kafka_options(settings)
    ensure_topic(location, settings.stream.partitions, options=options)
    lock = HomeLock(settings.home)
    try:
        _check_base(settings)
        _take_first_key(settings)
        check_layers(settings)
    except BaseException:
        lock.release()
        raise
    return lock


def _check_base(settings: Settings) -> None:
    try:
        current = builders.registry(settings).current()
        builders.spool_path(settings, 0)
    except (RegistryError, ActorError) as error:
        raise ClusterError(str(error)) from error
    base = builders.base_revision(settings)
    if current is not None and current.base.digest != base.digest:
        raise ClusterError(
            f"home {settings.home}: its adapters belong to base {current.base.model} ({current.base.digest[:12]}), "
            f"got base.model={base.model} ({base.digest[:12]}); use that base or another `home`"
        )


def _take_first_key(settings: Settings) -> None:
    """Make the key of the environment the first one of a home that has never had any."""
    text = os.environ.get(FIRST_KEY, "").strip()
    if text and settings.serving.keys_required:
        storage = builders.storage(settings)
        try:
            if key := KeyStore(storage).first(Grant(name="first", scopes=get_args(Scope)), text):
                log = AuditLog(storage)
                log.end(log.begin(FIRST_KEY, "keys create"), f"key {key.id}")
        except RegistryError as error:
            raise ClusterError(f"{FIRST_KEY}: {error}") from error


def check_layers(settings: Settings) -> None:
    """Check the models' kinds and the layers that are named; features and learner load them when the system is up."""
    base = settings.base.model
    try:
        check_supported(read_config(resolve(base)), f"base.model {base}")
        layers = layer_count(resolve(base))
        below = layer_count(resolve(settings.features.model or base))
    except LearningError as error:
        raise ClusterError(str(error)) from error
    deepest, frozen = max(settings.features.depths(below)), settings.learner.frozen_layers
    if deepest > below:
        raise ClusterError(f"features.layers: expected depths up to {below}, its model's layers, got {deepest}")
    if frozen >= layers:
        raise ClusterError(
            f"learner.frozen_layers: expected fewer than the base's {layers}, got {frozen}; adapters need a layer above"
        )


def free_port(settings: Settings) -> int:
    """Return the port to listen on, a free one where 0 is set.

    Raises `ClusterError` where it is taken, or where several replicas would want one.
    """
    serving, host, port = settings.serving, settings.serving.host, settings.serving.port
    if serving.replica_port and serving.replicas.most > 1 and settings.ray.address is None:
        raise ClusterError(
            f"serving.replica_port: expected 0, any free one, as up to {serving.replicas.most} replicas are on this "
            f"machine, got {serving.replica_port}"
        )
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

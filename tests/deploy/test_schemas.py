"""Kubernetes' manifests by the published schemas of their kinds: no field that is unknown, none of a wrong type."""

import copy
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import KUBERNETES, kubernetes
from tests.deploy.published import VERSIONS, complaints

MANIFESTS = kubernetes()
each_version = pytest.mark.parametrize("version", VERSIONS)


@each_version
@pytest.mark.parametrize("key", MANIFESTS, ids="/".join)
def test_it_is_what_its_schema_says(key: tuple[str, str], version: str) -> None:
    assert complaints(MANIFESTS[key], version) == []


def fields(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all keys in a manifest."""
    below = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    found = [path] if path and isinstance(path[-1], str) else []
    return found + [each for key, value in below for each in fields(value, (*path, key))]


# Below these anybody may name what he likes: labels, quantities of whatever resource, Kafka's and Ray's own options.
FREE = {"labels", "matchLabels", "requests", "limits", "config", "rayStartParams"}
# Of these the schema is found.
IDENTITY = {"apiVersion", "kind"}


@pytest.mark.slow
@pytest.mark.parametrize("key", MANIFESTS, ids="/".join)
def test_a_slip_in_any_key_is_seen(key: tuple[str, str]) -> None:
    unseen = []
    for path in fields(MANIFESTS[key]):
        if path[0] in IDENTITY or FREE & set(path[:-1]) or (key[0] == "Service" and "selector" in path[:-1]):
            continue
        slipped = copy.deepcopy(MANIFESTS[key])
        above = slipped
        for step in path[:-1]:
            above = above[step]
        above[f"{path[-1]}X"] = above.pop(path[-1])
        if not complaints(slipped, VERSIONS[-1]):
            unseen.append(path)
    assert unseen == []


@pytest.mark.parametrize(
    ("key", "path", "value"),
    [
        (("RayService", "anabranch"), "spec.rayClusterConfig.workerGroupSpecs.0.maxReplicas", "4"),
        (("RayService", "anabranch"), "spec.rayClusterConfig.headGroupSpec.rayStartParams.num-cpus", 0),
        (("RayService", "anabranch"), "spec.rayClusterConfig.headGroupSpec.template.spec.containers.0.ports", "8000"),
        (("RayService", "anabranch"), "spec.upgradeStrategy.type", "Never"),
        (("Kafka", "anabranch"), "spec.kafka.listeners.0.name", "Plain_Text"),
        (("Kafka", "anabranch"), "spec.kafka.listeners.0.port", 92),
        (("Kafka", "anabranch"), "spec.kafka.listeners.0.authentication.type", "scram-sha-256"),
        (("KafkaUser", "anabranch"), "spec.authorization.acls.0.operations", ["Reed"]),
        (("KafkaUser", "anabranch"), "metadata.labels", {}),
        (("KafkaNodePool", "broker"), "spec.roles", ["voter"]),
        (("KafkaNodePool", "broker"), "metadata.labels", {}),
        (("KafkaTopic", "anabranch"), "spec.partitions", 0),
        (("PodMonitor", "anabranch"), "spec.podMetricsEndpoints.0.interval", "15 seconds"),
        (("PodDisruptionBudget", "anabranch-workers"), "spec.minAvailable", {"count": 1}),
        (("NetworkPolicy", "anabranch"), "spec.ingress.1.ports.0.port", ["http"]),
        (("Service", "anabranch"), "spec.ports.0.port", "http"),
    ],
)
def test_a_wrong_value_is_seen(key: tuple[str, str], path: str, value: Any) -> None:
    manifest = copy.deepcopy(MANIFESTS[key])
    *above, last = path.split(".")
    node: Any = manifest
    for step in above:
        node = node[int(step)] if step.isdigit() else node[step]
    assert last in node
    node[last] = value
    assert complaints(manifest, VERSIONS[-1])


def test_each_file_holds_its_kind() -> None:
    for path in KUBERNETES.glob("*.yaml"):
        kinds = {each["kind"].lower() for each in yaml.safe_load_all(path.read_text())}
        assert kinds == {path.stem}


def merged(manifest: Any, patch: Any) -> Any:
    """A manifest after a merge patch, of objects alone."""
    if not isinstance(patch, dict):
        return patch
    return {**manifest, **{key: merged(manifest.get(key, {}), value) for key, value in patch.items()}}


@each_version
def test_the_rayservice_with_redis_is_what_its_schema_says(version: str) -> None:
    patch = yaml.safe_load((KUBERNETES / "patches" / "redis.yaml").read_text())
    patched = merged(MANIFESTS["RayService", "anabranch"], patch)
    assert "redisAddress" in patched["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    assert complaints(patched, version) == []
    del patched["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]["redisAddress"]
    assert complaints(patched, version)

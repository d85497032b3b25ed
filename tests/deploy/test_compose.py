"""Compose starts a preset that loads, whose reservations its containers hold, against the broker it brings."""

from typing import Any

import pytest

from cluster.preflight import FIRST_KEY
from configs.settings import Settings
from console.client import API_KEY
from tests.deploy.manifests import DEPLOY, IN_IMAGE, REPOSITORY, compose, reservations, settings_of


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return compose()["services"]


@pytest.fixture(scope="module")
def settings(services: dict[str, Any]) -> Settings:
    return settings_of(services["head"]["command"])


def test_it_builds_from_this_repository(services: dict[str, Any]) -> None:
    build = services["head"]["build"]
    context = (DEPLOY / build["context"]).resolve()
    assert context == REPOSITORY
    assert (context / build["dockerfile"]).is_file()


def test_it_starts_a_preset_that_loads(services: dict[str, Any], settings: Settings) -> None:
    head = services["head"]
    script = head["entrypoint"][0]
    assert (REPOSITORY / script.removeprefix(IN_IMAGE)).is_file()
    assert settings.ray.address == "auto"
    standin, port = services["standin"], settings.serving.port
    assert standin["ports"] == [f"127.0.0.1:{port}:{port}"] and "ports" not in head
    assert standin["command"] == [f":{port}", f"head:{port}"]
    assert (REPOSITORY / standin["entrypoint"][0].removeprefix(IN_IMAGE)).is_file()
    assert settings.serving.host == "0.0.0.0"
    assert f":{settings.serving.port}/readyz" in head["healthcheck"]["test"][-1]


def test_it_shares_the_home_folder(services: dict[str, Any], settings: Settings) -> None:
    for name in ("head", "worker"):
        mounts = [volume.split(":")[1] for volume in services[name]["volumes"]]
        assert any(settings.home.is_relative_to(mount) for mount in mounts), name


def test_its_spools_lie_on_a_volume_of_the_machine(services: dict[str, Any], settings: Settings) -> None:
    folder = settings.ingest.spool_folder
    assert folder is not None and folder.is_absolute() and not folder.is_relative_to(settings.home)
    for name in ("head", "worker"):
        mounts = dict(volume.split(":")[::-1] for volume in services[name]["volumes"])
        assert mounts[str(folder)] in compose()["volumes"], name


def test_its_broker_is_the_one_that_is_asked(services: dict[str, Any], settings: Settings) -> None:
    bootstrap = settings.stream.bootstrap
    broker = services["kafka"]
    assert bootstrap is not None
    assert bootstrap.split(":")[0] == "kafka"
    advertised = broker["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"INSIDE://{bootstrap}" in advertised.split(",")
    assert f":{bootstrap.split(':')[1]}" in broker["environment"]["KAFKA_LISTENERS"]
    assert broker["image"] == "apache/kafka:4.3.1"


def test_its_nodes_hold_all_reservations(services: dict[str, Any], settings: Settings) -> None:
    worker = next(word for word in services["worker"]["command"] if word.startswith("--num-cpus="))
    there = services["head"]["environment"]["HEAD_CPUS"] + int(worker.split("=")[1])
    assert sum(cpus for cpus, _ in reservations(settings)) <= there
    assert sum(gpus for _, gpus in reservations(settings)) == 0


def test_its_worker_joins_the_head(services: dict[str, Any]) -> None:
    assert "--address=head:6379" in services["worker"]["command"]
    assert "RAY_PORT:-6379" in (DEPLOY / "head.sh").read_text()
    modes = [services[name]["environment"]["RAY_AUTH_MODE"] for name in ("head", "worker")]
    assert modes == ["disabled", "disabled"]


def test_monitoring_comes_only_when_asked_for(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if service.get("profiles") == ["monitoring"]} == {
        "prometheus",
        "grafana",
    }
    assert all("profiles" not in services[name] for name in ("kafka", "head", "worker"))


def test_nothing_is_published_beyond_this_machine(services: dict[str, Any]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_whatever_is_mounted_is_there(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose()["volumes"] or (DEPLOY / source).exists(), f"{name}: {source}"


def test_every_image_has_a_version(services: dict[str, Any]) -> None:
    foreign = [service["image"] for service in services.values() if service["image"] != "anabranch"]
    assert len(foreign) == 3
    assert all(image.rsplit(":", 1)[-1].lstrip("v")[0].isdigit() for image in foreign)


def test_keys_are_asked_for_and_the_first_one_comes_from_the_environment(
    services: dict[str, Any], settings: Settings
) -> None:
    assert settings.serving.keys_required and settings.serving.access.metrics == "open"
    given = services["head"]["environment"]
    assert given[FIRST_KEY] == given[API_KEY] == f"${{{API_KEY}:-}}"

"""What lies in deploy/, read: the image's instructions, compose, and Kubernetes' manifests by kind and name."""

import shlex
from pathlib import Path
from typing import Any, Literal

import yaml

from configs.loader import load
from configs.settings import Settings
from console.terminal import stream_overrides

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
DASHBOARDS = DEPLOY / "grafana" / "dashboards"
IN_IMAGE = "/opt/anabranch/"

Manifest = dict[str, Any]


def instructions() -> list[list[str]]:
    """The words of each instruction of the Dockerfile."""
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line and not line.startswith("#")]


def compose() -> Manifest:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def prometheus() -> Manifest:
    return yaml.safe_load((DEPLOY / "prometheus.yml").read_text())


def kubernetes() -> dict[tuple[str, str], Manifest]:
    """All manifests by kind and name."""
    found = {}
    for path in sorted(KUBERNETES.glob("*.yaml")):
        for each in yaml.safe_load_all(path.read_text()):
            key = (each["kind"], each["metadata"]["name"])
            assert key not in found, f"{key} stands twice"
            found[key] = each
    return found


def settings_of(arguments: list[str]) -> Settings:
    """The settings with which `anabranch up` starts, from its arguments as a manifest writes them."""
    assert arguments[0] == "up"
    options = dict.fromkeys(arguments[2::2])
    assert set(options) <= {"--set", "--stream"}
    pairs = list(zip(arguments[2::2], arguments[3::2], strict=True))
    streams = [value for option, value in pairs if option == "--stream"]
    sets = [value for option, value in pairs if option == "--set"]
    return load(arguments[1], [*stream_overrides(streams[0] if streams else None), *sets])


def reservations(settings: Settings, which: Literal["fewest", "most"] = "most") -> list[tuple[float, float]]:
    """CPUs and GPUs of each actor and replica that reserves any, at their fewest or their most."""
    takers = [settings.ingest] * settings.ingest.workers
    takers += [settings.learner] * getattr(settings.learner.workers, which)
    takers += [settings.serving] * getattr(settings.serving.replicas, which)
    return [(settings.router.num_cpus, 0.0), *((taker.num_cpus, taker.num_gpus) for taker in takers)]


def gibibytes(quantity: str) -> float:
    assert quantity.endswith("Gi"), quantity
    return float(quantity.removesuffix("Gi"))

"""What deploy/ names is there: presets load, paths exist, ports and addresses agree, reservations fit the nodes."""

import importlib
import inspect
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

from cluster.runtime import _ENVIRONMENT
from configs.loader import load
from configs.settings import Settings
from console.terminal import stream_overrides

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
IN_IMAGE = "/opt/anabranch/"


def settings_of(arguments: list[str]) -> Settings:
    """The settings with which `anabranch up` starts, from its arguments as a manifest writes them."""
    assert arguments[0] == "up"
    options = dict.fromkeys(arguments[2::2])
    assert set(options) <= {"--set", "--stream"}
    pairs = list(zip(arguments[2::2], arguments[3::2], strict=True))
    streams = [value for option, value in pairs if option == "--stream"]
    sets = [value for option, value in pairs if option == "--set"]
    return load(arguments[1], [*stream_overrides(streams[0] if streams else None), *sets])


def reserved_cpus(settings: Settings) -> float:
    return (
        settings.ingest.workers * settings.ingest.num_cpus
        + settings.router.num_cpus
        + settings.learner.workers * settings.learner.num_cpus
        + settings.serving.replicas * settings.serving.num_cpus
    )


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


# -- the image --------------------------------------------------------------------------------------------------------


def instructions() -> list[list[str]]:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line and not line.startswith("#")]


def test_what_the_image_copies_is_in_the_repository() -> None:
    copied = [source for words in instructions() if words[0] == "COPY" for source in words[1:-1]]
    assert copied
    assert [source for source in copied if not (REPOSITORY / source).exists()] == []


def test_the_image_holds_every_package_of_the_project() -> None:
    copied = {source.rstrip("/") for words in instructions() if words[0] == "COPY" for source in words[1:-1]}
    packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")} - {"tests"}
    assert packages <= copied


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_each_choice_of_extra_has_a_lock(extra: str) -> None:
    assert (REPOSITORY / "requirements" / f"{extra}.lock").is_file()


def test_the_image_runs_the_command_as_an_ordinary_user() -> None:
    words = {line[0]: line[1:] for line in instructions()}
    assert words["USER"] == ["anabranch"]
    assert words["ENTRYPOINT"] == ["[anabranch]"]


def test_nodes_of_a_running_ray_have_its_environment_from_the_image() -> None:
    """A driver sets the same for a Ray that it starts itself; whether there is a token is each deployment's choice."""
    given = dict(word.split("=", 1) for words in instructions() if words[0] == "ENV" for word in words[1:])
    wanted = {name: value for name, value in _ENVIRONMENT.items() if name != "RAY_AUTH_MODE"}
    assert wanted.items() <= given.items()


def test_the_head_script_may_be_run() -> None:
    assert (DEPLOY / "head.sh").stat().st_mode & 0o111 == 0o111


# -- compose ----------------------------------------------------------------------------------------------------------


def test_compose_builds_from_this_repository(compose: dict[str, Any]) -> None:
    build = compose["services"]["head"]["build"]
    context = (DEPLOY / build["context"]).resolve()
    assert context == REPOSITORY
    assert (context / build["dockerfile"]).is_file()


def test_compose_starts_a_preset_that_loads(compose: dict[str, Any]) -> None:
    head = compose["services"]["head"]
    script = head["entrypoint"][0]
    assert (REPOSITORY / script.removeprefix(IN_IMAGE)).is_file()
    settings = settings_of(head["command"])
    assert settings.ray.address == "auto"
    assert head["ports"] == [f"127.0.0.1:{settings.serving.port}:{settings.serving.port}"]
    assert settings.serving.host == "0.0.0.0"
    assert f":{settings.serving.port}/readyz" in head["healthcheck"]["test"][-1]


def test_compose_shares_the_home_folder(compose: dict[str, Any]) -> None:
    home = settings_of(compose["services"]["head"]["command"]).home
    for name in ("head", "worker"):
        mounts = [volume.split(":")[1] for volume in compose["services"][name]["volumes"]]
        assert any(home.is_relative_to(mount) for mount in mounts), name


def test_composes_spools_lie_on_a_volume_of_the_machine(compose: dict[str, Any]) -> None:
    settings = settings_of(compose["services"]["head"]["command"])
    folder = settings.ingest.spool_folder
    assert folder is not None and folder.is_absolute() and not folder.is_relative_to(settings.home)
    for name in ("head", "worker"):
        mounts = dict(volume.split(":")[::-1] for volume in compose["services"][name]["volumes"])
        assert mounts[str(folder)] in compose["volumes"], name
    assert_image_gives(folder)


def assert_image_gives(folder: Path) -> None:
    """A new volume takes owner and mode from the image, where the folder has to be there."""
    made = next(words for words in instructions() if words[0] == "RUN" and "useradd" in words)
    assert made.count(str(folder)) == 3 and "700" in made
    assert any(words[0] == "VOLUME" and str(folder) in words for words in instructions())


def test_composes_broker_is_the_one_that_is_asked(compose: dict[str, Any]) -> None:
    bootstrap = settings_of(compose["services"]["head"]["command"]).stream.bootstrap
    broker = compose["services"]["kafka"]
    assert bootstrap is not None
    assert bootstrap.split(":")[0] == "kafka"
    advertised = broker["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"INSIDE://{bootstrap}" in advertised.split(",")
    assert f":{bootstrap.split(':')[1]}" in broker["environment"]["KAFKA_LISTENERS"]
    assert broker["image"] == "apache/kafka:4.3.1"


def test_composes_nodes_hold_all_reservations(compose: dict[str, Any]) -> None:
    worker = next(word for word in compose["services"]["worker"]["command"] if word.startswith("--num-cpus="))
    there = compose["services"]["head"]["environment"]["HEAD_CPUS"] + int(worker.split("=")[1])
    assert reserved_cpus(settings_of(compose["services"]["head"]["command"])) <= there


def test_composes_worker_joins_the_head(compose: dict[str, Any]) -> None:
    assert "--address=head:6379" in compose["services"]["worker"]["command"]
    assert "RAY_PORT:-6379" in (DEPLOY / "head.sh").read_text()
    modes = [compose["services"][name]["environment"]["RAY_AUTH_MODE"] for name in ("head", "worker")]
    assert modes == ["disabled", "disabled"]


# -- Kubernetes -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kubernetes() -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "rayservice.yaml").read_text())}


@pytest.fixture(scope="module")
def ray_cluster(kubernetes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return kubernetes["RayService"]["spec"]["rayClusterConfig"]


@pytest.fixture(scope="module")
def serve_config(kubernetes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return yaml.safe_load(kubernetes["RayService"]["spec"]["serveConfigV2"])


@pytest.fixture(scope="module")
def settings_on_kubernetes(serve_config: dict[str, Any]) -> Settings:
    (application,) = serve_config["applications"]
    assert set(application["args"]) <= {"config", "set"}
    return load(application["args"]["config"], application["args"].get("set", []))


def test_serve_reads_the_config(serve_config: dict[str, Any]) -> None:
    deployed = ServeDeploySchema.model_validate(serve_config)
    assert [application.route_prefix for application in deployed.applications] == ["/"]
    assert deployed.http_options.port == serve_config["http_options"]["port"]
    assert deployed.proxy_location == "HeadOnly"


def test_the_application_is_built_from_its_arguments(serve_config: dict[str, Any]) -> None:
    """As Serve does it on the cluster: import, look at the signature, call; neither Ray nor an engine is started."""
    (application,) = serve_config["applications"]
    module, name = application["import_path"].split(":")
    builder = getattr(importlib.import_module(module), name)
    assert len(inspect.signature(builder).parameters) == 1
    assert isinstance(builder(application["args"]), Application)


def test_kubernetes_never_runs_two_clusters_on_one_home(kubernetes: dict[str, dict[str, Any]]) -> None:
    assert kubernetes["RayService"]["apiVersion"] == "ray.io/v1"
    assert kubernetes["RayService"]["spec"]["upgradeStrategy"] == {"type": "None"}


def test_kubernetes_listens_where_the_preset_does(
    serve_config: dict[str, Any], ray_cluster: dict[str, Any], settings_on_kubernetes: Settings
) -> None:
    port = settings_on_kubernetes.serving.port
    assert serve_config["http_options"] == {"host": settings_on_kubernetes.serving.host, "port": port}
    head = ray_cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    # KubeRay's Service looks for the port of this name.
    assert {"name": "serve", "containerPort": port} in head["ports"]


def test_kubernetes_uses_the_locked_ray(ray_cluster: dict[str, Any]) -> None:
    for lock in ("cpu.lock", "gpu.lock"):
        lines = (REPOSITORY / "requirements" / lock).read_text().splitlines()
        assert f"ray=={ray_cluster['rayVersion']}" in lines


def test_kubernetes_pods_share_the_home_folder(
    kubernetes: dict[str, dict[str, Any]], ray_cluster: dict[str, Any], settings_on_kubernetes: Settings
) -> None:
    claim = kubernetes["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in (ray_cluster["headGroupSpec"], *ray_cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if v["name"] == "home"}
        assert claims == {"home": claim["metadata"]["name"]}
        assert settings_on_kubernetes.home.is_relative_to(mounts["home"])


def test_kubernetes_spools_lie_on_the_node_and_fit(
    ray_cluster: dict[str, Any], settings_on_kubernetes: Settings
) -> None:
    ingest = settings_on_kubernetes.ingest
    for group in (ray_cluster["headGroupSpec"], *ray_cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        (volume,) = [v for v in pod["volumes"] if v["name"] == mounts[str(ingest.spool_folder)]]
        size = volume["emptyDir"]["sizeLimit"]
        assert size.endswith("Gi")
        # Every worker may come to lie on one node.
        assert (
            ingest.workers * (2 * ingest.spool_bytes + ingest.poll_records * ingest.max_record_bytes)
            <= int(size.removesuffix("Gi")) * 2**30
        )


def test_kubernetes_pods_hold_all_reservations(ray_cluster: dict[str, Any], settings_on_kubernetes: Settings) -> None:
    settings = settings_on_kubernetes
    assert ray_cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (group,) = ray_cluster["workerGroupSpecs"]
    container = group["template"]["spec"]["containers"][0]["resources"]["requests"]
    per_pod, gpus = (int(group["rayStartParams"][kind]) for kind in ("num-cpus", "num-gpus"))
    assert (int(container["cpu"]), container["nvidia.com/gpu"]) == (per_pod, gpus) == (per_pod, 1)
    # On pods of one GPU each actor with a share of one may take a pod for itself.
    takers = [settings.ingest] * settings.ingest.workers
    takers += [settings.learner] * settings.learner.workers + [settings.serving] * settings.serving.replicas
    assert sum(taker.num_gpus > 0 for taker in takers) <= group["replicas"]
    assert max(taker.num_cpus for taker in takers) <= per_pod
    assert reserved_cpus(settings) <= group["replicas"] * per_pod

"""What Kubernetes' manifests say of each other and of the settings that they start with agrees."""

import importlib
import inspect
import json
import shlex
from typing import Any, Literal

import pytest
import yaml
from ray.serve import Application
from ray.serve.schema import ServeDeploySchema

from cluster.preflight import FIRST_KEY
from configs.loader import load
from configs.memory_sum import check_memory
from configs.settings import Settings
from console.client import API_KEY
from streaming.entries import MAX_ENTRY_BYTES
from streaming.location import DEAD_LETTERS_SUFFIX
from tests.deploy.manifests import DEPLOY, IN_IMAGE, REPOSITORY, Manifest, gibibytes, kubernetes, reservations

MANIFESTS = kubernetes()
PART_OF = "app.kubernetes.io/part-of"
NEW_KEY = '"ab-$(openssl rand -hex 6)-$(openssl rand -hex 32)"'
COMPONENT = "app.kubernetes.io/component"


@pytest.fixture(scope="module")
def ray_service() -> Manifest:
    return MANIFESTS["RayService", "anabranch"]


@pytest.fixture(scope="module")
def ray_cluster(ray_service: Manifest) -> Manifest:
    return ray_service["spec"]["rayClusterConfig"]


@pytest.fixture(scope="module")
def workers(ray_cluster: Manifest) -> dict[str, Manifest]:
    return {group["groupName"]: group for group in ray_cluster["workerGroupSpecs"]}


@pytest.fixture(scope="module")
def groups(ray_cluster: Manifest, workers: dict[str, Manifest]) -> dict[str, Manifest]:
    return {"head": ray_cluster["headGroupSpec"], **workers}


@pytest.fixture(scope="module")
def serve_config(ray_service: Manifest) -> dict[str, Any]:
    return yaml.safe_load(ray_service["spec"]["serveConfigV2"])


@pytest.fixture(scope="module")
def settings(serve_config: dict[str, Any]) -> Settings:
    (application,) = serve_config["applications"]
    assert set(application["args"]) <= {"config", "set"}
    return load(application["args"]["config"], application["args"].get("set", []))


def test_what_is_set_fits_the_memory_of_the_gpus(settings: Settings) -> None:
    assert settings.ray.gpu_memory_gib is not None
    check_memory(settings)


def container(group: Manifest) -> Manifest:
    (only,) = group["template"]["spec"]["containers"]
    return only


def ports(group: Manifest) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(group)["ports"]}


def labels(group: Manifest) -> dict[str, str]:
    return group["template"]["metadata"]["labels"]


def selects(selector: Manifest, given: dict[str, str]) -> bool:
    """Whether a label selector takes a pod."""
    if not selector.get("matchLabels", {}).items() <= given.items():
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if given.get(expression["key"]) not in expression["values"]:
            return False
    return True


def selected(selector: Manifest, groups: dict[str, Manifest]) -> set[str]:
    return {name for name, group in groups.items() if selects(selector, labels(group))}


# -- the application --------------------------------------------------------------------------------------------------


def test_serve_reads_the_config(serve_config: dict[str, Any]) -> None:
    deployed = ServeDeploySchema.model_validate(serve_config)
    assert [application.route_prefix for application in deployed.applications] == [None]
    assert deployed.http_options.port == serve_config["http_options"]["port"]
    assert deployed.proxy_location == "HeadOnly"


def test_the_application_is_built_from_its_arguments(serve_config: dict[str, Any]) -> None:
    """As Serve does it on the cluster: import, look at the signature, call; neither Ray nor an engine is started."""
    (application,) = serve_config["applications"]
    module, name = application["import_path"].split(":")
    builder = getattr(importlib.import_module(module), name)
    assert len(inspect.signature(builder).parameters) == 1
    assert isinstance(builder(application["args"]), Application)


def test_two_clusters_never_run_on_one_home(ray_service: Manifest) -> None:
    assert ray_service["apiVersion"] == "ray.io/v1"
    assert ray_service["spec"]["upgradeStrategy"] == {"type": "None"}


def test_kuberay_finds_serve_s_proxy(serve_config: dict[str, Any], groups: dict[str, Manifest]) -> None:
    # By the port of this name.
    assert serve_config["http_options"] == {"host": "0.0.0.0", "port": ports(groups["head"])["serve"]}


def test_replicas_listen_where_it_is_said(groups: dict[str, Manifest], settings: Settings) -> None:
    for name in ("learner", "replica"):
        assert ports(groups[name])["http"] == settings.serving.replica_port > 0


def test_it_uses_the_locked_ray(ray_cluster: Manifest) -> None:
    for lock in ("cpu.lock", "gpu.lock"):
        lines = (REPOSITORY / "requirements" / lock).read_text().splitlines()
        assert f"ray=={ray_cluster['rayVersion']}" in lines


def test_the_owner_of_the_actors_lies_on_a_pod_without_a_gpu_and_not_on_the_head(
    serve_config: dict[str, Any], workers: dict[str, Manifest]
) -> None:
    (application,) = serve_config["applications"]
    (owner,) = application["deployments"]
    module, _ = application["import_path"].split(":")
    assert owner["name"] == importlib.import_module(module).System.name
    # As the shell that KubeRay writes it for unquotes it.
    (argument,) = shlex.split(workers["cpu"]["rayStartParams"]["resources"])
    assert owner["ray_actor_options"] == {"num_cpus": 0, "resources": json.loads(argument)}


# -- pods -------------------------------------------------------------------------------------------------------------


def test_pods_share_the_home_folder(groups: dict[str, Manifest], settings: Settings) -> None:
    claim = MANIFESTS["PersistentVolumeClaim", "anabranch-home"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in groups.values():
        mounts = {mount["name"]: mount["mountPath"] for mount in container(group)["volumeMounts"]}
        volumes = group["template"]["spec"]["volumes"]
        claims = {v["name"]: v["persistentVolumeClaim"]["claimName"] for v in volumes if v["name"] == "home"}
        assert claims == {"home": claim["metadata"]["name"]}
        assert settings.home.is_relative_to(mounts["home"])


def test_spools_lie_on_the_node_and_fit(groups: dict[str, Manifest], settings: Settings) -> None:
    ingest = settings.ingest
    for group in groups.values():
        mounts = {mount["mountPath"]: mount["name"] for mount in container(group)["volumeMounts"]}
        (volume,) = [v for v in group["template"]["spec"]["volumes"] if v["name"] == mounts[str(ingest.spool_folder)]]
        # Every worker may come to lie on one node.
        assert (
            ingest.workers * (2 * ingest.spool_bytes + ingest.poll_records * ingest.max_record_bytes)
            <= gibibytes(volume["emptyDir"]["sizeLimit"]) * 2**30
        )


def test_rays_objects_fit_into_shared_memory_and_that_into_the_pod(groups: dict[str, Manifest]) -> None:
    for group in groups.values():
        (volume,) = [v for v in group["template"]["spec"]["volumes"] if v["name"] == "shared-memory"]
        assert volume["emptyDir"]["medium"] == "Memory"
        shared = gibibytes(volume["emptyDir"]["sizeLimit"])
        assert int(group["rayStartParams"]["object-store-memory"]) <= shared * 2**30
        assert shared < gibibytes(container(group)["resources"]["limits"]["memory"])


def test_each_group_has_its_component_and_parameters_that_ray_knows(groups: dict[str, Manifest]) -> None:
    from ray.scripts.scripts import start

    options = {option.removeprefix("--") for parameter in start.params for option in parameter.opts}
    for name, group in groups.items():
        serves = {"anabranch-serves": "true"} if name in ("learner", "replica") else {}
        assert labels(group) == {PART_OF: "anabranch", COMPONENT: name, **serves}
        assert set(group["rayStartParams"]) <= options


def test_what_reserves_works_where_it_is_meant_to(
    groups: dict[str, Manifest], workers: dict[str, Manifest], settings: Settings
) -> None:
    """Ray knows no groups: what a pod offers decides. Ingest and router fit on no pod with a GPU, and the others on
    none without, so nobody takes another's place whatever comes first."""
    assert set(workers) == {"cpu", "learner", "replica"}
    assert groups["head"]["rayStartParams"]["num-cpus"] == "0"
    offers = {
        name: (int(group["rayStartParams"]["num-cpus"]), int(group["rayStartParams"].get("num-gpus", 0)))
        for name, group in workers.items()
    }
    assert offers["learner"] == offers["replica"]
    fits = {
        taker: {name for name, (cpus, gpus) in offers.items() if taker[0] <= cpus and taker[1] <= gpus}
        for taker in reservations(settings)
    }
    for (_, gpus), places in fits.items():
        assert places == ({"learner", "replica"} if gpus else {"cpu"})


@pytest.mark.parametrize(("which", "bound"), [("fewest", "minReplicas"), ("most", "maxReplicas")])
def test_pods_hold_the_fewest_at_once_and_the_most_when_all_have_come(
    workers: dict[str, Manifest], settings: Settings, which: Literal["fewest", "most"], bound: str
) -> None:
    taken = reservations(settings, which)
    on_gpus = [taker for taker in taken if taker[1] > 0]
    on_cpus = [cpus for cpus, gpus in taken if gpus == 0]
    # A whole GPU each, so a pod each.
    assert {gpus for _, gpus in on_gpus} == {1.0}
    assert len(on_gpus) == workers["learner"][bound] + workers["replica"][bound]
    assert getattr(settings.learner.workers, which) == workers["learner"][bound]
    assert getattr(settings.serving.replicas, which) == workers["replica"][bound]
    # In whatever order they come: however the others are spread, one pod has room for the last.
    pods, each = workers["cpu"]["minReplicas"], int(workers["cpu"]["rayStartParams"]["num-cpus"])
    assert all(sum(on_cpus) - last <= pods * (each - last) for last in on_cpus)


def test_pods_ask_kubernetes_for_what_they_offer_ray(workers: dict[str, Manifest]) -> None:
    for group in workers.values():
        resources = container(group)["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"]
        assert int(group["rayStartParams"]["num-cpus"]) <= int(resources["requests"]["cpu"])
        gpus = int(group["rayStartParams"].get("num-gpus", 0))
        assert resources["requests"].get("nvidia.com/gpu", 0) == resources["limits"].get("nvidia.com/gpu", 0) == gpus


def test_groups_may_grow(ray_cluster: Manifest, workers: dict[str, Manifest]) -> None:
    assert ray_cluster["enableInTreeAutoscaling"] is True
    for name, group in workers.items():
        assert group["minReplicas"] == group["replicas"] < group["maxReplicas"], name


def test_the_autoscaler_reads_the_groups_as_they_are_meant(workers: dict[str, Manifest]) -> None:
    """By Ray's own reading of a RayCluster, which is what runs beside the head."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _node_type_from_group_spec

    for group in workers.values():
        read = _node_type_from_group_spec(group, is_head=False)
        assert (read["min_workers"], read["max_workers"]) == (group["minReplicas"], group["maxReplicas"])
        offered = {key: amount for key, amount in read["resources"].items() if key != "memory"}
        own = {key: 1 for key in json.loads(shlex.split(group["rayStartParams"]["resources"])[0])}
        gpus = {"GPU": int(group["rayStartParams"]["num-gpus"])} if "num-gpus" in group["rayStartParams"] else {}
        assert offered == {"CPU": int(group["rayStartParams"]["num-cpus"]), **gpus, **own}


def test_every_pod_is_asked_whether_it_is_well(groups: dict[str, Manifest]) -> None:
    """KubeRay's own probe asks each worker for a proxy, which only the head has: with it no worker would be ready."""
    from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS

    for group in groups.values():
        for probe in ("readinessProbe", "livenessProbe"):
            asked = container(group)[probe]["httpGet"]
            assert asked["path"] in PUBLIC_EXACT_PATHS
            assert ports(group)[asked["port"]] == 52365
        patience = {
            probe: container(group)[probe]["periodSeconds"] * container(group)[probe]["failureThreshold"]
            for probe in ("readinessProbe", "livenessProbe")
        }
        assert patience["readinessProbe"] < patience["livenessProbe"]


def test_pods_may_not_become_more_than_they_are(ray_cluster: Manifest, groups: dict[str, Manifest]) -> None:
    bounded = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    # KubeRay puts the autoscaler beside the head; it alone speaks to Kubernetes.
    assert ray_cluster["autoscalerOptions"]["securityContext"] == bounded
    for name, group in groups.items():
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container(group)["securityContext"] == bounded
        assert pod.get("automountServiceAccountToken", True) is (name == "head")


# -- around them ------------------------------------------------------------------------------------------------------


def test_a_service_knows_every_place_of_a_replica(groups: dict[str, Manifest], settings: Settings) -> None:
    service = MANIFESTS["Service", "anabranch-replicas"]["spec"]
    assert service["clusterIP"] == "None" and service["publishNotReadyAddresses"] is True
    places = selected({"matchLabels": service["selector"]}, groups)
    assert places == {name for name, group in groups.items() if "num-gpus" in group["rayStartParams"]}
    (port,) = service["ports"]
    # A name tells addresses and no port.
    assert port["port"] == settings.serving.replica_port
    assert {ports(groups[name])[port["targetPort"]] for name in places} == {port["port"]}


def test_clients_come_to_the_stand_in_and_it_leads_to_the_replicas(settings: Settings) -> None:
    standin = MANIFESTS["Deployment", "anabranch-standin"]["spec"]
    labels = standin["template"]["metadata"]["labels"]
    service, policy = MANIFESTS["Service", "anabranch"]["spec"], MANIFESTS["NetworkPolicy", "anabranch-standin"]["spec"]
    for selector in (service["selector"], standin["selector"]["matchLabels"], policy["podSelector"]["matchLabels"]):
        assert selector.items() <= labels.items()
    # The system's own pods are open to each other: it is none of them.
    assert PART_OF not in labels
    (container,) = standin["template"]["spec"]["containers"]
    assert (DEPLOY.parent / container["command"][0].removeprefix(IN_IMAGE)).is_file()
    port = settings.serving.port
    (behind,) = MANIFESTS["Service", "anabranch-replicas"]["spec"]["ports"]
    name = "anabranch-replicas.$(NAMESPACE).svc.cluster.local"
    assert container["args"] == [f":{port}", f"{name}:{behind['port']}"]
    (listening,) = container["ports"]
    assert (listening["containerPort"], service["ports"][0]["targetPort"]) == (port, listening["name"])
    assert policy["ingress"][0]["ports"] == [{"protocol": "TCP", "port": port}]


def test_a_drain_takes_one_worker_at_a_time_and_never_the_head(
    groups: dict[str, Manifest], workers: dict[str, Manifest]
) -> None:
    head, others = (MANIFESTS["PodDisruptionBudget", f"anabranch-{name}"]["spec"] for name in ("head", "workers"))
    assert selected(head["selector"], groups) == {"head"} and head["minAvailable"] == 1
    assert selected(others["selector"], groups) == set(workers)
    assert others["minAvailable"] == sum(group["minReplicas"] for group in workers.values()) - 1
    # Kubernetes can't count out of how many: a RayCluster has no scale subresource.
    assert "maxUnavailable" not in head | others


def test_the_network_lets_in_who_is_named(groups: dict[str, Manifest], settings: Settings) -> None:
    policy = MANIFESTS["NetworkPolicy", "anabranch"]["spec"]
    assert selected(policy["podSelector"], groups) == set(groups)
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    open_ports: dict[str, set[int]] = {}
    for rule in policy["ingress"]:
        (peer,) = rule["from"]
        (kind, selector), *more = peer.items()
        assert more == []
        who = " ".join(f"{key}={value}" for key, value in selector["matchLabels"].items())
        open_ports[f"{kind} {who}"] = {port["port"] for port in rule.get("ports", [])}
    named = ports(groups["head"])
    standin = MANIFESTS["Deployment", "anabranch-standin"]["spec"]["selector"]["matchLabels"]
    ((label, value),) = standin.items()
    assert open_ports == {
        f"podSelector {PART_OF}=anabranch": set(),
        "namespaceSelector kubernetes.io/metadata.name=kuberay-system": {named["dashboard"], named["serve"]},
        f"podSelector {label}={value}": {settings.serving.replica_port},
        "namespaceSelector kubernetes.io/metadata.name=monitoring": {settings.serving.replica_port, named["metrics"]},
    }


def test_the_network_lets_out_to_the_broker(settings: Settings) -> None:
    policy = MANIFESTS["NetworkPolicy", "anabranch"]["spec"]
    assert settings.stream.bootstrap is not None
    port = int(settings.stream.bootstrap.rsplit(":", 1)[1])
    rules = [rule for rule in policy["egress"] if {"protocol": "TCP", "port": port} in rule.get("ports", [])]
    brokers = {"strimzi.io/cluster": MANIFESTS["Kafka", "anabranch"]["metadata"]["name"], "strimzi.io/kind": "Kafka"}
    assert [rule["to"] for rule in rules] == [[{"podSelector": {"matchLabels": brokers}}]]


def test_monitors_find_their_pods_and_ports(groups: dict[str, Manifest]) -> None:
    front, ray = (MANIFESTS["PodMonitor", name]["spec"] for name in ("anabranch", "anabranch-ray"))
    assert selected(front["selector"], groups) == {"learner", "replica"}
    assert selected(ray["selector"], groups) == set(groups)
    for spec in (front, ray):
        (endpoint,) = spec["podMetricsEndpoints"]
        for name in selected(spec["selector"], groups):
            assert endpoint["port"] in ports(groups[name]), name
    for group in groups.values():
        assert int(group["rayStartParams"]["metrics-export-port"]) == ports(group)["metrics"]


# -- Kafka ------------------------------------------------------------------------------------------------------------


def test_kafka_is_the_one_that_is_asked(settings: Settings) -> None:
    kafka = MANIFESTS["Kafka", "anabranch"]
    (listener,) = kafka["spec"]["kafka"]["listeners"]
    # Strimzi names the Service of the listeners so.
    assert settings.stream.bootstrap == f"{kafka['metadata']['name']}-kafka-bootstrap:{listener['port']}"
    assert settings.stream.security_protocol == "SSL" and listener["tls"] is True
    assert {PART_OF: "anabranch"} in [p["podSelector"]["matchLabels"] for p in listener["networkPolicyPeers"]]


def test_the_secrets_that_strimzi_makes_lie_where_the_settings_look(
    groups: dict[str, Manifest], settings: Settings
) -> None:
    # Strimzi names the cluster's authority so, and a user's Secret as the user.
    authority = f"{MANIFESTS['Kafka', 'anabranch']['metadata']['name']}-cluster-ca-cert"
    assert ("KafkaUser", "anabranch") in MANIFESTS
    wanted = {
        str(settings.stream.ssl_cafile): (authority, "ca.crt"),
        str(settings.stream.ssl_certfile): ("anabranch", "user.crt"),
        str(settings.stream.ssl_keyfile): ("anabranch", "user.key"),
    }
    for group in groups.values():
        (mount,) = [each for each in container(group)["volumeMounts"] if each["name"] == "kafka"]
        (volume,) = [each for each in group["template"]["spec"]["volumes"] if each["name"] == "kafka"]
        secrets = [source["secret"] for source in volume["projected"]["sources"]]
        found = {
            f"{mount['mountPath']}/{item['path']}": (secret["name"], item["key"])
            for secret in secrets
            for item in secret["items"]
        }
        assert found == wanted and mount["readOnly"] is True


def test_users_may_do_what_is_theirs_on_the_topics_there_are(settings: Settings) -> None:
    (listener,) = MANIFESTS["Kafka", "anabranch"]["spec"]["kafka"]["listeners"]
    topics = {name for kind, name in MANIFESTS if kind == "KafkaTopic"}
    for (kind, name), user in MANIFESTS.items():
        if kind != "KafkaUser":
            continue
        assert user["metadata"]["labels"]["strimzi.io/cluster"] == MANIFESTS["Kafka", "anabranch"]["metadata"]["name"]
        assert user["spec"]["authentication"] == listener["authentication"]
        rights = {(acl["resource"]["type"], acl["resource"]["name"]) for acl in user["spec"]["authorization"]["acls"]}
        assert {name for kind, name in rights if kind == "topic"} <= topics
        if name == "anabranch":
            assert rights == {("group", settings.stream.group), *(("topic", topic) for topic in topics)}


def test_kafka_has_its_nodes() -> None:
    pools = [each for (kind, _), each in MANIFESTS.items() if kind == "KafkaNodePool"]
    name = MANIFESTS["Kafka", "anabranch"]["metadata"]["name"]
    assert {pool["metadata"]["labels"]["strimzi.io/cluster"] for pool in pools} == {name}
    roles = {role: pool["spec"]["replicas"] for pool in pools for role in pool["spec"]["roles"]}
    assert roles["controller"] % 2 == 1
    for pool in pools:
        (volume,) = pool["spec"]["storage"]["volumes"]
        assert volume["kraftMetadata"] == "shared"
    config = MANIFESTS["Kafka", "anabranch"]["spec"]["kafka"]["config"]
    for key, copies in config.items():
        if key.endswith("replication.factor"):
            assert copies <= roles["broker"], key
        elif key.endswith(("insync.replicas", "min.isr")):
            assert copies < roles["broker"], key


def test_topics_are_those_of_the_settings(settings: Settings) -> None:
    stream = settings.stream
    topics = {name: each for (kind, name), each in MANIFESTS.items() if kind == "KafkaTopic"}
    assert set(topics) == {stream.topic, stream.topic + DEAD_LETTERS_SUFFIX}
    assert topics[stream.topic]["spec"]["partitions"] == stream.partitions >= settings.ingest.workers
    for each in topics.values():
        assert each["metadata"]["labels"]["strimzi.io/cluster"] == MANIFESTS["Kafka", "anabranch"]["metadata"]["name"]
        assert each["spec"]["config"]["min.insync.replicas"] < each["spec"]["replicas"]


def test_kafka_takes_the_largest_record_with_its_key(settings: Settings) -> None:
    largest = MANIFESTS["Kafka", "anabranch"]["spec"]["kafka"]["config"]["message.max.bytes"]
    # As Kafka counts it: with what it puts around a record.
    assert max(settings.ingest.max_record_bytes, MAX_ENTRY_BYTES) < largest


def test_the_exporter_looks_at_the_stream_and_its_group(settings: Settings) -> None:
    exporter = MANIFESTS["Kafka", "anabranch"]["spec"]["kafkaExporter"]
    for pattern, name in (("topicRegex", settings.stream.topic), ("groupRegex", settings.stream.group)):
        assert name.startswith(exporter[pattern].removesuffix(".*"))


def test_keys_are_asked_for_and_the_first_one_is_a_secret_s(settings: Settings, groups: dict[str, Manifest]) -> None:
    assert settings.serving.keys_required and settings.serving.access.metrics == "open"
    # `System`, which takes it, lies on the group `cpu`; commands are called on the head.
    for name in ("head", "cpu"):
        given = {each["name"]: each.get("valueFrom") for each in container(groups[name])["env"]}
        assert given[FIRST_KEY] == given[API_KEY]
        assert given[FIRST_KEY] == {"secretKeyRef": {"name": "anabranch-key", "key": "key", "optional": True}}
    assert f"--from-literal=key={NEW_KEY}" in (REPOSITORY / "docs" / "deploy.md").read_text()

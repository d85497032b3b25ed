"""docs/deploy.md tells of everything in deploy/, and of what a machine without our image needs."""

import re

import pytest

from cluster.runtime import _ENVIRONMENT
from tests.deploy.manifests import DASHBOARDS, KUBERNETES, REPOSITORY, kubernetes, prometheus

GUIDE = (REPOSITORY / "docs" / "deploy.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(KUBERNETES.glob("*.yaml")), ids=lambda path: path.name)
def test_it_tells_of_every_manifest(path: object) -> None:
    assert f"`{str(path).removeprefix(f'{REPOSITORY}/')}`" in GUIDE


def test_it_tells_of_every_dashboard_and_job() -> None:
    told = set(re.findall(r"^\| (\w+) \| ", GUIDE, re.MULTILINE))
    assert {path.stem for path in DASHBOARDS.glob("*.json")} <= told
    assert all(f"the job `{job['job_name']}`" in GUIDE for job in prometheus()["scrape_configs"])


def test_plain_machines_get_what_the_image_gives() -> None:
    exported = dict(
        re.findall(r"(?:export|\s)\s*(\w+)=(\S+)", "\n".join(re.findall(r"^export .+$", GUIDE, re.MULTILINE)))
    )
    wanted = {name: value for name, value in _ENVIRONMENT.items() if name != "RAY_AUTH_MODE"}
    assert wanted.items() <= exported.items()
    # Ray's ports are open among several machines: not without a token.
    assert exported["RAY_AUTH_MODE"] == "token"


def test_it_names_the_labels_that_open_ports() -> None:
    policies = [each["spec"] for (kind, _), each in kubernetes().items() if kind == "NetworkPolicy"]
    listener = kubernetes()["Kafka", "anabranch"]["spec"]["kafka"]["listeners"][0]
    rules = [rule for policy in policies for rule in policy["ingress"]]
    peers = [peer for rule in rules for peer in rule["from"]] + listener["networkPolicyPeers"]
    opening = {
        f'{key}: "{value}"'
        for peer in peers
        for key, value in peer.get("podSelector", {"matchLabels": {}})["matchLabels"].items()
        if key.startswith("anabranch-")
    }
    assert len(opening) == 2
    assert all(f"`{label}`" in GUIDE for label in opening)

"""Dashboards ask for what is exported, in ways that mean something, and compose and Prometheus bring it to them."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import promql_parser as promql
import pytest
import yaml

from tests.deploy.exported import Series, exported
from tests.deploy.manifests import DASHBOARDS, DEPLOY, compose, kubernetes, prometheus, settings_of

BOARDS = sorted(path.stem for path in DASHBOARDS.glob("*.json"))
each_board = pytest.mark.parametrize("name", BOARDS)

RATES = {"rate", "irate", "increase"}
SLOPES = {"deriv", "delta", "idelta", "predict_linear"}
# What Prometheus itself puts on every series.
OF_ANY_SCRAPE = {"job", "instance"}


def board(name: str) -> dict[str, Any]:
    return json.loads((DASHBOARDS / f"{name}.json").read_text())


def queries(panel: dict[str, Any]) -> list[str]:
    """A panel's queries, with Grafana's variable in place."""
    found = [target["expr"].replace("$__rate_interval", "5m") for target in panel["targets"]]
    assert not any("$" in text for text in found), f"{panel['title']}: a variable that nobody sets"
    return found


@cache
def there() -> dict[str, Series]:
    return exported()


def parts(node: promql.Expr) -> Iterator[promql.Expr]:
    """An expression and all below it."""
    yield node
    match node:
        case promql.Call():
            below = node.args
        case promql.AggregateExpr():
            below = [node.expr, *([node.param] if node.param is not None else [])]
        case promql.BinaryExpr():
            below = [node.lhs, node.rhs]
        case promql.MatrixSelector():
            below = [node.vector_selector]
        case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
            below = [node.expr]
        case _:
            below = []
    for each in below:
        yield from parts(each)


def selectors(node: promql.Expr) -> list[promql.VectorSelector]:
    return [each for each in parts(node) if isinstance(each, promql.VectorSelector)]


def asked_by(panel: dict[str, Any]) -> set[str]:
    """The names that a panel's queries ask for."""
    return {selector.name for text in queries(panel) for selector in selectors(promql.parse(text))}


def asked_by_all() -> set[str]:
    return {name for each in BOARDS for panel in board(each)["panels"] for name in asked_by(panel)}


def named_labels(node: promql.Expr) -> set[str]:
    """Labels that an expression groups or matches by, those of selectors apart."""
    modifiers = [each.modifier for each in parts(node) if isinstance(each, promql.AggregateExpr) and each.modifier]
    found = {label for modifier in modifiers for label in modifier.labels}
    for each in parts(node):
        if isinstance(each, promql.BinaryExpr) and each.modifier is not None and each.modifier.matching is not None:
            found |= set(each.modifier.matching.labels)
    return found


def faults(text: str) -> list[str]:
    """What is wrong with a query, one line each."""
    tree = promql.parse(text)
    found = []
    carried: set[str] = set()
    for selector in selectors(tree):
        series = there().get(selector.name)
        if series is None:
            found.append(f"{selector.name}: exported by nobody")
            continue
        carried |= series.labels
        found += [
            f"{selector.name}: has no label {matcher.name}"
            for matcher in selector.matchers.matchers
            if matcher.name not in series.labels | OF_ANY_SCRAPE
        ]
    found += [f"nothing asked for has the label {label}" for label in named_labels(tree) - carried - OF_ANY_SCRAPE]
    return found + (misused(tree) if not found else [])


def misused(tree: promql.Expr) -> list[str]:
    found = []
    for call in (each for each in parts(tree) if isinstance(each, promql.Call)):
        for selector in (each for argument in call.args for each in selectors(argument)):
            series = there()[selector.name]
            if call.func.name in RATES and not series.counts:
                found.append(f"{call.func.name} of {series.name}, which does not only rise")
            if call.func.name in SLOPES and series.counts:
                found.append(f"{call.func.name} of {series.name}, whose restarts it would take for a fall")
            if call.func.name == "histogram_quantile" and not series.name.endswith("_bucket"):
                found.append(f"{call.func.name} of {series.name}, which is no histogram's")
    return found


def test_there_is_a_board_for_each_question() -> None:
    assert BOARDS == ["learning", "publication", "routing", "serving", "stream"]


@each_board
def test_every_query_asks_for_what_is_exported(name: str) -> None:
    for panel in board(name)["panels"]:
        assert queries(panel)
        assert [(text, faults(text)) for text in queries(panel) if faults(text)] == [], panel["title"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("anabranch_domain_exmples", "exported by nobody"),
        ("anabranch_requests", "exported by nobody"),
        ('anabranch_router_rows{segment="1"}', "has no label segment"),
        ("sum by (domian) (anabranch_router_rows)", "has the label domian"),
        ("anabranch_domain_examples / on (topic) anabranch_router_rows", "has the label topic"),
        ("rate(anabranch_spool_rows[5m])", "does not only rise"),
        ("deriv(ray_serve_num_http_requests_total[5m])", "take for a fall"),
        ("histogram_quantile(0.9, anabranch_route_seconds_sum)", "no histogram's"),
    ],
)
def test_a_wrong_query_is_seen(text: str, fault: str) -> None:
    assert any(fault in line for line in faults(text))


def test_every_figure_of_ours_is_drawn() -> None:
    ours = {each.name for each in there().values() if each.name.startswith("anabranch_")}
    left = {name for name in ours - asked_by_all() if not name.endswith(("_sum", "_count"))}
    # `anabranch_replica_manifest_number` tells of all, by name.
    assert left == {"anabranch_manifest_number"}


@each_board
def test_a_board_can_be_provisioned(name: str) -> None:
    made = board(name)
    assert made["uid"] == f"anabranch-{name}" and "anabranch" in made["tags"]
    variables = {each["name"]: each for each in made["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    panels = made["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["description"], f"{panel['title']} does not say what it shows"
        assert {each["datasource"]["uid"] for each in (panel, *panel["targets"])} == {"${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


@each_board
def test_panels_lie_beside_each_other(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board(name)["panels"]:
        place = panel["gridPos"]
        cells = {
            (column, row)
            for column in range(place["x"], place["x"] + place["w"])
            for row in range(place["y"], place["y"] + place["h"])
        }
        assert max(column for column, _ in cells) < 24 and not cells & taken, panel["title"]
        taken |= cells


# -- from where -------------------------------------------------------------------------------------------------------


def jobs_asked_for() -> set[str]:
    return {there()[name].job for name in asked_by_all()}


def test_prometheus_scrapes_the_services_of_compose_where_they_listen() -> None:
    jobs = {job["job_name"]: job for job in prometheus()["scrape_configs"]}
    # Kafka's exporter is Strimzi's: compose has none, and the panels say so.
    assert set(jobs) == jobs_asked_for() - {"kafka"}
    services = compose()["services"]
    port = settings_of(services["head"]["command"]).serving.replica_port
    # A replica may lie in either.
    assert jobs["anabranch"]["dns_sd_configs"] == [{"names": ["head", "worker"], "type": "A", "port": port}]
    assert "RAY_METRICS_PORT:-8080" in (DEPLOY / "head.sh").read_text()
    assert jobs["ray"]["static_configs"] == [{"targets": ["head:8080"]}]
    assert "--metrics-export-port=8080" in services["worker"]["command"]
    assert jobs["ray"]["dns_sd_configs"] == [{"names": ["worker"], "type": "A", "port": 8080}]


def test_pod_monitors_bring_the_same_jobs() -> None:
    monitors = [each for (kind, _), each in kubernetes().items() if kind == "PodMonitor"]
    endpoints = [endpoint for each in monitors for endpoint in each["spec"]["podMetricsEndpoints"]]
    assert {rule["replacement"] for e in endpoints for rule in e["relabelings"] if rule["targetLabel"] == "job"} == (
        jobs_asked_for()
    )


def test_what_kafkas_exporter_brings_is_said_to_be_on_kubernetes() -> None:
    for panel in board("stream")["panels"]:
        if any(there()[asked].job == "kafka" for asked in asked_by(panel)):
            assert "on Kubernetes" in panel["description"], panel["title"]


def test_grafana_is_given_its_source_and_its_boards() -> None:
    services = compose()["services"]
    mounts = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus" and source["isDefault"] is True
    port = services["prometheus"]["ports"][0].rsplit(":", 1)[1]
    assert source["url"] == f"http://prometheus:{port}"
    assert source["jsonData"]["timeInterval"] == prometheus()["global"]["scrape_interval"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "anabranch.yaml").read_text())["providers"]
    assert provider["options"]["path"] == mounts["./grafana/dashboards"]
    assert (DEPLOY / "grafana" / "dashboards").is_dir()

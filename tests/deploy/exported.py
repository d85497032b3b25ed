"""Which series Prometheus finds: ours from the registries themselves, the engine's and Ray's from their sources.

A series is a name as a query writes it (`..._total`, `..._bucket`), with the labels it may have and whether it counts.
"""

import ast
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from registry.manifest import BaseRevision
from serving import frontdoor
from serving.api import ActorStatus, DomainStatus, IngestStatus, ReplicaStatus, Stretch, SystemStatus, Waiting
from serving.metrics import ReplicaMetrics
from serving.system_metrics import render_metrics


@dataclass(frozen=True)
class Series:
    """One name of a query."""

    name: str
    labels: frozenset[str]
    counts: bool
    """It only rises while its process lives, so that a rate of it means something."""
    job: str
    """The scrape that brings it."""


def exported() -> dict[str, Series]:
    """All series by name."""
    found: dict[str, Series] = {}
    for each in (*_of_replica(), *_of_system(), *_of_engine(), *_of_ray(), *_of_kafka_exporter()):
        assert found.setdefault(each.name, each) == each, f"{each.name} is exported twice, and not alike"
    return found


def _spread(kind: str, name: str, labels: Iterable[str], job: str) -> Iterator[Series]:
    """The series of a metric by Prometheus' conventions."""
    series = Series(name, frozenset(labels), True, job)
    match kind:
        case "counter":
            yield replace(series, name=name.removesuffix("_total") + "_total")
        case "gauge":
            yield replace(series, counts=False)
        case "histogram":
            yield replace(series, name=f"{name}_sum")
            yield replace(series, name=f"{name}_count")
            yield replace(series, name=f"{name}_bucket", labels=series.labels | {"le"})
        case _:
            raise AssertionError(f"{name}: a {kind} is no kind that is known here")


# -- ours -------------------------------------------------------------------------------------------------------------


def _of_replica() -> Iterator[Series]:
    metrics = ReplicaMetrics()
    kinds = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}
    own = [each for each in vars(metrics).values() if type(each) in kinds]
    assert {family.name for each in own for family in each.describe()} == {
        family.name for family in metrics.registry.collect()
    }
    for each in own:
        (family,) = each.describe()
        yield from _spread(kinds[type(each)], family.name, each._labelnames, "anabranch")


def _of_system() -> Iterator[Series]:
    """What a status with something of everything is told as, and the word that the front door adds."""
    waiting = Waiting(train=1, held_out=1)
    lost = (Stretch(partition="t[0]", first=0, last=1, rows=1),)
    domain = DomainStatus(
        domain="d", state="failed", version=None, examples=2, router_rows=1, waiting=waiting, prequential=0.5, lost=lost
    )
    worker = IngestStatus(
        name="w", partitions=("t[0]",), trouble={"a": "b"}, spooled=1, spooled_bytes=1, full=False, polled=1,
        dead_letters=1, duplicates=1, lag={"t[0]": 1},
    )  # fmt: skip
    status = SystemStatus(
        manifest=1,
        base=BaseRevision(model="m"),
        domains=(domain,),
        ingest=(worker,),
        replicas={"r": ReplicaStatus(manifest=1)},
        actors=(ActorStatus(name="a", state="up", progress_seconds=1.0),),
        unread=lost,
        trouble="t",
    )
    for family in text_string_to_metric_families(render_metrics(status)):
        assert family.samples, f"{family.name}: nothing of it in a status that has something of everything"
        yield from _spread(family.type, family.name, family.samples[0].labels, "anabranch")
    assert "anabranch_control_up {up}" in inspect.getsource(frontdoor)
    yield from _spread("gauge", "anabranch_control_up", (), "anabranch")


# -- others' ----------------------------------------------------------------------------------------------------------


def _of_engine() -> Iterator[Series]:
    """vLLM's, which the front door tells as they are."""
    kinds = {"_counter_cls": "counter", "_gauge_cls": "gauge", "_histogram_cls": "histogram"}
    for kind, name, labels in _made_in(_folder("vllm") / "v1" / "metrics" / "loggers.py", lambda each: kinds.get(each)):
        yield from _spread(kind, name, {"model_name", "engine", *labels}, "anabranch")


# What Ray puts on every metric of a process, and Serve on those of a replica.
_OF_ANY_PROCESS = {"Component", "NodeAddress", "SessionName", "Version", "WorkerId"}
_OF_ANY_REPLICA = {"application", "deployment", "replica"}


def _of_ray() -> Iterator[Series]:
    """Ray Serve's: of its replicas, its proxy, its router and its controller."""
    kinds = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram"}
    folder = _folder("ray") / "serve" / "_private"
    for file in ("replica.py", "request_ingress_metrics.py", "router.py", "deployment_state.py"):
        extra = _OF_ANY_REPLICA if file == "replica.py" else set()
        for kind, name, labels in _made_in(folder / file, lambda each: kinds.get(each), protocol_name="http"):
            if name.startswith("serve_"):
                yield from _spread(kind, f"ray_{name}", {*_OF_ANY_PROCESS, *extra, *labels}, "ray")


def _of_kafka_exporter() -> Iterator[Series]:
    """Those of danielqsj/kafka_exporter 1.9 that are asked for, as its README lists them; Strimzi runs it."""
    yield from _spread("gauge", "kafka_consumergroup_lag", ("consumergroup", "topic", "partition"), "kafka")
    yield from _spread("gauge", "kafka_topic_partition_current_offset", ("topic", "partition"), "kafka")


def _folder(package: str) -> Path:
    """The folder of an installed package, which is not imported for it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None, f"{package} is not installed"
    return Path(spec.origin).parent


def _made_in(
    path: Path, kind_of: Callable[[str], str | None], **known: str
) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Kind, name and labels of each metric that a source makes; `known` are values of variables in names."""
    tree = ast.parse(path.read_text())
    variables = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = False
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        kind = kind_of(called)
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        named = keywords.get("name", node.args[0] if node.args else None)
        if kind is None or named is None or (name := _text(named, known)) is None:
            continue
        labels = keywords.get("labelnames", keywords.get("tag_keys"))
        yield kind, name, frozenset(_words(labels, variables))
        found = True
    assert found, f"{path}: makes no metric in a way that is known here"


def _text(node: ast.expr, known: dict[str, str]) -> str | None:
    """A string's value; of a formatted one, where each variable in it is known."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = [known.get(ast.unparse(part.value)) if isinstance(part, ast.FormattedValue) else _text(part, {})
             for part in node.values]  # fmt: skip
    return None if None in parts else "".join(filter(None, parts))


def _words(node: ast.expr | None, variables: dict[str, ast.expr]) -> Iterator[str]:
    """All strings in an expression of labels, through variables of the same file."""
    if node is None:
        return
    for each in ast.walk(node):
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            yield each.value
        elif isinstance(each, ast.Name) and each.id in variables and variables[each.id] is not node:
            yield from _words(variables[each.id], {name: v for name, v in variables.items() if name != each.id})

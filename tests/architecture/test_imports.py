"""The arrows of the house point one way, and each large dependency has one door."""

import graphlib

import pytest

from tests.architecture.sources import PACKAGES, graph, sources

LAW = {
    "configs": {"learning", "serving"},
    "learning": set(),
    "streaming": set(),
    "registry": set(),
    "serving": {"registry", "learning"},
    "actors": {"serving", "streaming", "registry", "learning"},
    "cluster": {"actors", "serving", "streaming", "registry", "learning", "configs"},
    # Stories about the house may enter by any door; of the house, only who sits at the terminal tells them.
    "examples": {"actors", "serving", "streaming", "registry", "learning", "configs", "cluster"},
    "benchmarks": {"actors", "serving", "streaming", "registry", "learning", "configs", "cluster", "examples"},
    "console": {"benchmarks", "cluster", "serving", "streaming", "registry", "learning", "configs"},
}


def test_every_arrow_between_packages_is_allowed() -> None:
    wrong = [
        f"{module} -> {imported}"
        for module, targets in graph().items()
        for imported in sorted(targets)
        if (there := imported.split(".")[0]) != (here := module.split(".")[0]) and there not in LAW[here]
    ]
    assert wrong == []


def test_no_module_reaches_itself() -> None:
    edges = {
        module: {imported for imported in targets if imported != module and not module.startswith(f"{imported}.")}
        for module, targets in graph().items()
    }
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        raise AssertionError(f"import cycle: {' <- '.join(error.args[1])}") from None


def files_that_import(name: str) -> list[str]:
    return sorted(
        source.place for source in sources() if any(module.split(".")[0] == name for module in source.imports())
    )


def test_vllm_only_in_serving() -> None:
    importers = files_that_import("vllm")
    assert importers and all(place.startswith("serving/") for place in importers), importers


@pytest.mark.parametrize("client", ["kafka", "confluent_kafka"])
def test_kafka_only_in_streaming(client: str) -> None:
    importers = files_that_import(client)
    assert importers and all(place.startswith("streaming/") for place in importers), importers


def test_ray_in_at_most_five_files_of_cluster_and_actors() -> None:
    importers = files_that_import("ray")
    assert importers and all(place.startswith(("cluster/", "actors/")) for place in importers), importers
    assert len(importers) <= 5, importers


def test_the_packages_are_all_there() -> None:
    assert {source.package for source in sources()} == set(PACKAGES)

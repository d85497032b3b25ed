"""Published schemas of the kinds in deploy/kubernetes: Kubernetes' own from a package, the operators' from schemas/.

Kubernetes' are strict: an unknown field is an error, as a typing slip would otherwise be dropped without a word.
"""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

VERSIONS = ("1.30.0", "1.37.0")
"""The oldest Kubernetes that Strimzi 1.1 takes, and the newest that the package knows."""

_OWN = Path(__file__).parent / "schemas"
_BUILT_IN = {
    ("apps/v1", "Deployment"): "Deployment",
    ("v1", "PersistentVolumeClaim"): "PersistentVolumeClaim",
    ("v1", "Service"): "Service",
    ("networking.k8s.io/v1", "NetworkPolicy"): "NetworkPolicy",
    ("policy/v1", "PodDisruptionBudget"): "PodDisruptionBudget",
}


@cache
def _definitions(version: str) -> dict[str, Any]:
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}-local-strict"
    return json.loads((folder / "_definitions.json").read_text())


@cache
def _registry(version: str) -> Registry[Any]:
    """Kubernetes' definitions at their own address, and each once more as `kubernetes:NAME`."""
    definitions = _definitions(version)
    registry: Registry[Any] = Registry()
    whole = Resource.from_contents(definitions, default_specification=DRAFT202012)
    named = {f"kubernetes:{_short(name)}": name for name in definitions["$defs"] if _is_current(name)}
    references = [
        (uri, Resource.from_contents({"$ref": f"/api/_definitions.json#/$defs/{name}"}, DRAFT202012))
        for uri, name in named.items()
    ]
    return registry.with_resources([("/api/_definitions.json", whole), *references])


def _short(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _is_current(name: str) -> bool:
    """Of several versions of a type the one that is here to stay; events have two, of which none is used here."""
    return ".v1." in name


@cache
def _validator(version: str, api: str, kind: str) -> Draft202012Validator:
    if (api, kind) in _BUILT_IN:
        schema = {"$ref": f"kubernetes:{_BUILT_IN[api, kind]}"}
    else:
        path = _OWN / f"{kind.lower()}.yaml"
        assert path.is_file(), f"{api} {kind}: no schema of it is known here"
        schema = yaml.safe_load(path.read_text())
        Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, registry=_registry(version))


def complaints(manifest: dict[str, Any], version: str) -> list[str]:
    """What is wrong with a manifest by the schema of its kind, one line each."""
    validator = _validator(version, manifest["apiVersion"], manifest["kind"])
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]

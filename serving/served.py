"""One manifest as a replica serves it: immutable, so that a request sees all of it or none of it.

Knows nothing of how it came to be loaded, nor of the requests that use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

from registry.manifest import Manifest
from serving.engine import LoadedAdapter
from serving.scorer import Scorer

AUTO = "auto"
BASE = "base"


@dataclass(frozen=True, eq=False)
class ServedManifest:
    """`by_domain` maps each routed domain to its adapter; `scorer` is None where no domain can be chosen by content."""

    number: int
    manifest: Manifest | None
    scorer: Scorer | None
    by_domain: Mapping[str, LoadedAdapter]

    @cached_property
    def by_name(self) -> Mapping[str, LoadedAdapter]:
        """Full version name to adapter."""
        return MappingProxyType({adapter.name: adapter for adapter in self.by_domain.values()})


NOTHING_PUBLISHED = ServedManifest(number=0, manifest=None, scorer=None, by_domain=MappingProxyType({}))

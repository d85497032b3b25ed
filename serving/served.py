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
class ServedDomain:
    """`newest` answers where nothing can be scored; `by_column`: each segment's adapter by its column of the router,
    segment by segment."""

    newest: LoadedAdapter
    by_column: Mapping[str, LoadedAdapter]


@dataclass(frozen=True, eq=False)
class ServedManifest:
    """`by_domain` is sorted; `scorer` is None where no adapter can be chosen by content."""

    number: int
    manifest: Manifest | None
    scorer: Scorer | None
    by_domain: Mapping[str, ServedDomain]

    @cached_property
    def by_column(self) -> Mapping[str, LoadedAdapter]:
        """Column of the router to adapter, domain by domain, within a domain segment by segment."""
        return MappingProxyType({c: a for domain in self.by_domain.values() for c, a in domain.by_column.items()})

    @cached_property
    def by_name(self) -> Mapping[str, LoadedAdapter]:
        """Full version name to adapter, in the same order."""
        return MappingProxyType({adapter.name: adapter for adapter in self.by_column.values()})


NOTHING_PUBLISHED = ServedManifest(number=0, manifest=None, scorer=None, by_domain=MappingProxyType({}))

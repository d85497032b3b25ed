"""Who asks, as far as what is behind the door needs to know it: which domains, and what is to be noted or counted.

Set for a request by `serving.access`. Without keys there is nobody to ask after, and everything is allowed. Knows no
HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from serving.errors import Refused
from serving.openai_body import error_body
from serving.served import AUTO

_PARTS = re.compile(r"[@*][^+]*(?:\+|$)|\+")


@dataclass(frozen=True)
class Caller:
    """Who has been let in."""

    key: str
    """The key's id; empty for nobody that is known."""
    scopes: frozenset[str] = frozenset()
    domains: frozenset[str] | None = None
    """What the key is for; None for all."""
    spend: Callable[[int], None] | None = None
    """To be told the tokens of an answer; None where nobody counts."""
    notes: list[str] = field(default_factory=list)
    """What the audit log is to say beside the status."""

    def may(self, name: str) -> bool:
        """Whether the key is for a domain, or for the domains of a version or of several, as `a@v1-...+b*0.5`."""
        return self.domains is None or all(part in self.domains for part in _PARTS.split(name) if part)


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Who asks; None where keys are off."""


def forbidden(message: str, param: str | None = None) -> Refused:
    return Refused(403, error_body(message, "PermissionDeniedError", 403, param))


def check_model(model: object) -> None:
    """Refuse a model by its name, whether or not there is one; `auto` is told by who would answer."""
    caller = CALLER.get()
    if caller is not None and isinstance(model, str) and model != AUTO and not caller.may(model):
        raise forbidden("the key is not for this model; GET /v1/models lists those that it is for", "model")


def check_answerers(domains: Iterable[str]) -> None:
    """Refuse a request that one of these domains would answer, where the key is not for it."""
    caller = CALLER.get()
    if caller is not None and not all(map(caller.may, domains)):
        raise forbidden("what would answer this is none of the domains that the key is for", "model")


def check_records(records: Sequence[Mapping[str, Any]]) -> None:
    """Refuse records of which one is not of a domain that the key is for. One that names it in another layout than
    ours, as `task`, is refused as well."""
    caller = CALLER.get()
    if caller is None or caller.domains is None:
        return
    for place, record in enumerate(records):
        named = record.get("domain")
        if not isinstance(named, str) or named not in caller.domains or "task" in record:
            raise forbidden(f"record {place}: expected a `domain` that the key is for; nothing was written", "domain")


def check_domain(domain: str) -> None:
    """Refuse a command on a domain that the key is not for."""
    caller = CALLER.get()
    if caller is not None and not caller.may(domain):
        raise forbidden("the key is not for this domain")


def is_visible(name: str) -> bool:
    """Whether the caller may be told of a model or a domain."""
    caller = CALLER.get()
    return caller is None or name == AUTO or caller.may(name)


def is_administrator() -> bool:
    """Whether the caller may be told of the whole system."""
    caller = CALLER.get()
    return caller is None or ("admin" in caller.scopes and caller.domains is None)


def note(what: str) -> None:
    """Have the audit log say this of what is being done."""
    if (caller := CALLER.get()) is not None:
        caller.notes.append(what)

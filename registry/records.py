"""Small JSON records with a checksum of their own: the head, the lineage, the epoch.

What this module does not know: who may write them and when.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from registry.errors import DigestMismatch, RegistryError


def canonical(content: Mapping[str, Any], where: str) -> bytes:
    """One text for equal contents; RegistryError, naming `where`, for what JSON can't say."""
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()
    except (TypeError, ValueError) as error:
        raise RegistryError(f"{where}: expected what JSON can say, got {error}; correct the state") from error


def sealed(content: Mapping[str, Any], where: str) -> bytes:
    """The record's text, its checksum among its entries."""
    return canonical({**content, "sha256": _checksum(content, where)}, where)


def unsealed(text: bytes, where: object, remedy: str) -> dict[str, Any]:
    """The record; DigestMismatch, ending in `remedy`, unless it is as written."""
    try:
        content = json.loads(text)
        expected = content.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DigestMismatch(f"{where}: expected a record with its sha256, got {text[:40]!r}; {remedy}") from error
    found = _checksum(content, str(where))
    if found != expected or canonical({**content, "sha256": expected}, str(where)) != text:
        raise DigestMismatch(f"{where}: expected the record with sha256 {expected}, got one with {found}; {remedy}")
    return dict(content)


def _checksum(content: Mapping[str, Any], where: str) -> str:
    return hashlib.sha256(canonical(content, where)).hexdigest()

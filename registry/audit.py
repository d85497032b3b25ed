"""What administrators have done: who, what, when and how it ended. Only added to, and bounded.

    audit/<time>-<act>.json             written before the act: one that can't be recorded is not begun
    audit/<time>-<act>.outcome.json     written after it; missing where the process was lost meanwhile

What this module does not know: which acts there are.
"""

import hashlib
import logging
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from registry.errors import DigestMismatch, RegistryError
from registry.key_form import masked
from registry.records import sealed, unsealed
from registry.storage import Storage

KEPT_FILES = 10_000
"""Beyond so many the oldest are removed."""
_LOOKED_AFTER = 100
"""Acts of one process between two looks at how many there are."""
_WORDS = 300
_OUTCOME = ".outcome.json"
_LOG = logging.getLogger(__name__)


class Act(BaseModel):
    """One act of an administrator's."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    at: AwareDatetime
    """When it was begun."""
    who: str
    """Id of the key, or who did it at the registry itself."""
    what: str
    """Method and path, or a command."""
    outcome: str | None = None
    """The status of the answer, and what came of it; null where nobody has said, as the process was lost."""


class AuditLog:
    """The acts below one root."""

    def __init__(self, storage: Storage, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._storage, self._now = storage, now
        self._begun = 0

    def begin(self, who: str, what: str) -> str:
        """Record that an act is begun, durably; returns its name. RegistryError where that can't be."""
        at = self._now()
        name = f"{at:%Y%m%dT%H%M%S.%f}-{uuid.uuid4().hex[:12]}"
        self._keep(f"audit/{name}.json", {"at": at.isoformat(), "who": _line(who), "what": _line(what)})
        if self._begun % _LOOKED_AFTER == 0:
            self._bound()
        self._begun += 1
        return name

    def end(self, act: str, outcome: str) -> None:
        """Record how it ended; where that can't be written, the process's own log has it."""
        try:
            self._keep(f"audit/{act}{_OUTCOME}", {"outcome": _line(outcome)})
        except RegistryError as error:
            _LOG.error("the outcome of act %s was %s, and could not be recorded: %s", act, _line(outcome), error)

    def newest(self, count: int) -> Iterator[Act]:
        """The last acts, newest first; RegistryError where they can't be read."""
        try:
            names = [entry.key for entry in self._storage.entries("audit")]
            outcomes = {name for name in names if name.endswith(_OUTCOME)}
            begun = [name for name in names if name not in outcomes]
            for name in begun[::-1][:count]:
                ended = name.removesuffix(".json") + _OUTCOME
                try:
                    more = self._read(ended) if ended in outcomes else {}
                    yield Act.model_validate({**self._read(name), **more})
                except FileNotFoundError:
                    return  # From here on they are being removed.
                except (DigestMismatch, ValidationError):
                    stamp = datetime.strptime(name.split("/")[1].split("-")[0], "%Y%m%dT%H%M%S.%f")
                    yield Act(at=stamp.replace(tzinfo=UTC), who="?", what=f"{name} is not what was written")
        except OSError as error:
            raise RegistryError(f"{self._storage.root}/audit: can't be read: {error}; mend the disk") from error

    def _keep(self, key: str, content: dict[str, str]) -> None:
        text = sealed(content, key)
        try:
            self._storage.keep(key, [text], hashlib.sha256(text).hexdigest())
        except OSError as error:
            raise RegistryError(f"{self._storage.root}/{key}: can't be written: {error}; mend the disk") from error

    def _read(self, key: str) -> dict[str, object]:
        return unsealed(self._storage.read(key), key, "restore it from a backup")

    def _bound(self) -> None:
        try:
            names = [entry.key for entry in self._storage.entries("audit")]
            if surplus := names[: max(0, len(names) - KEPT_FILES)]:
                self._storage.remove(surplus)
        except (OSError, RegistryError) as error:
            _LOG.warning("old acts were not removed: %s", error)


def _line(text: str) -> str:
    """One bounded line without a key in it."""
    line = " ".join(masked(text).encode(errors="replace").decode().split())
    return line if len(line) <= _WORDS else line[: _WORDS - 3] + "..."

"""Everything that serving raises on purpose. Knows nothing of HTTP: the front door maps these to answers."""

from __future__ import annotations

from typing import Any


class ServingError(Exception):
    """Root of this package's errors."""


class EngineFailed(ServingError):
    """The engine refused an operation or is dead."""


class PrepareFailed(ServingError):
    """A manifest can't be prepared; the service stays exactly as it was.

    Attributes: `version` the adapter (or "manifest N") at fault, `what` went wrong, `remedy` in words.
    """

    def __init__(self, version: str, what: str, remedy: str) -> None:
        super().__init__(f"cannot prepare {version}: {what}; {remedy}")
        self.version = version
        self.what = what
        self.remedy = remedy

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        # The default rebuilds from the message alone, and this error crosses process borders.
        return (type(self), (self.version, self.what, self.remedy))


class NotPrepared(ServingError):
    """A commit names a manifest that this replica has not prepared."""


class ScoringFailed(ServingError):
    """Texts could not be scored, for no fault of theirs."""


class Unavailable(ServingError):
    """This replica can't answer now (fenced, starting or stopped); another may."""


class Refused(ServingError):
    """A request that is answered with an error of the OpenAI form.

    Attributes: `status` HTTP status, `body` the JSON object to send.
    """

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(str(body.get("error", {}).get("message", body)))
        self.status = status
        self.body = body

    def __reduce__(self) -> tuple[type, tuple[int, dict[str, Any]]]:
        return (type(self), (self.status, self.body))


class InvalidRecord(ServingError):
    """A record that the stream would not take; the message says which and why."""


class UnknownName(ServingError):
    """A domain or version that does not exist."""


class ControlUnavailable(ServingError):
    """The part of the system behind the control port does not answer now."""

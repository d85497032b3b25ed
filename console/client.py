"""The HTTP client of the front door: typed answers, and every failure as one line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from cluster.errors import ClusterError
from registry.keys import Grant
from serving.api import (
    Body,
    CommandResult,
    DomainList,
    DomainStatus,
    RecordsResult,
    RouteDecision,
    RouteResult,
    SystemStatus,
)
from serving.key_bodies import AuditAct, AuditList, KeyList, KeyMade, KeyStatus
from serving.wording import plain
from streaming.errors import TooLarge
from streaming.feeding import batches
from streaming.records import EndOfDomain, TaskRecord

B = TypeVar("B", bound=Body)

API_KEY = "ANABRANCH_API_KEY"
"""The environment variable that holds the key to send."""


class Client:
    """Speaks to the front door at `url`, with the key of the environment if there is one, and waits `patience_s` for
    each answer; every failure is a
    `ClusterError` with one line, of what is too large `TooLarge`."""

    def __init__(self, url: str, *, patience_s: float = 120) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        key = os.environ.get(API_KEY, "").strip()
        if not all("!" <= character <= "~" for character in key):
            raise ClusterError(f"{API_KEY}: expected a key, got characters that none has")
        try:
            self._http = httpx.Client(
                base_url=self._url, timeout=patience_s, headers={"authorization": f"Bearer {key}"} if key else {}
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ClusterError(f"--url {url}: expected an address such as http://127.0.0.1:8000: {error}") from error
        self.last_adapter = ""
        self.last_abstained = ""

    def status(self) -> SystemStatus:
        """The whole system's state."""
        return self._ask(SystemStatus, "GET", "/v1/status")

    def domains(self) -> tuple[DomainStatus, ...]:
        """Every known domain."""
        return self._ask(DomainList, "GET", "/v1/domains").domains

    def route(self, text: str) -> RouteDecision:
        """Which domain a text belongs to."""
        body = {"messages": [{"role": "user", "content": text}]}
        decisions = self._ask(RouteResult, "POST", "/v1/route", body).decisions
        if len(decisions) != 1:
            raise self._unknown_form("/v1/route", f"decisions: {len(decisions)} instead of one")
        return decisions[0]

    def command(self, name: str, domain: str, version: str | None) -> CommandResult:
        """Run `remove`, `rollback`, `pin`, `unpin` or `learn` on a domain."""
        path = f"/v1/domains/{quote(domain, safe='')}"
        if name == "remove":
            return self._ask(CommandResult, "DELETE", path)
        return self._ask(CommandResult, "POST", f"{path}/{name}", {"version": version})

    def add_adapter(self, domain: str, offer: str, note: str) -> CommandResult:
        """Have an uploaded adapter taken as a domain's next version, once it is judged."""
        path = f"/v1/domains/{quote(domain, safe='')}/adapters"
        return self._ask(CommandResult, "POST", path, {"offer": offer, "note": note})

    def append(self, records: Sequence[TaskRecord | EndOfDomain]) -> list[str]:
        """Send records in order, in requests of bounded size, each durable when it returns; returns their ids."""
        ids: list[str] = []
        for batch in batches(records):
            body = [record.to_mapping() for record in batch]
            ids += self._ask(RecordsResult, "POST", "/v1/records", body).ids
        return ids

    def create_key(self, grant: Grant) -> KeyMade:
        """Make a key."""
        return self._ask(KeyMade, "POST", "/v1/keys", grant.model_dump(mode="json", exclude_none=True))

    def keys(self) -> tuple[KeyStatus, ...]:
        """All keys."""
        return self._ask(KeyList, "GET", "/v1/keys").keys

    def revoke_key(self, key: str) -> KeyStatus:
        """Let a key open nothing any more."""
        return self._ask(KeyStatus, "DELETE", f"/v1/keys/{quote(key, safe='')}")

    def rotate_key(self, key: str, overlap_seconds: float) -> KeyMade:
        """Give a key a new secret."""
        body = {"overlap_seconds": overlap_seconds}
        return self._ask(KeyMade, "POST", f"/v1/keys/{quote(key, safe='')}/rotate", body)

    def audit(self, count: int) -> tuple[AuditAct, ...]:
        """What administrators have done, the newest first."""
        return self._ask(AuditList, "GET", f"/v1/audit?limit={count}").acts

    def page(self) -> str:
        """Where its page is; it was there just now."""
        with self._reached():
            answer = self._http.get("/")
        if answer.status_code != 200:
            self._read(answer)
        return f"{self._url}/"

    def stream_chat(self, model: str, text: str) -> Iterator[str]:
        """Ask one question and yield the answer in pieces; `last_adapter` then names the version that spoke, and
        `last_abstained` in a word why the question was left to the base, if it was.

        An answer that breaks off, or ends with an error, raises after the pieces that came.
        """
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": text}]}
        path = "/v1/chat/completions"
        with self._reached(), self._http.stream("POST", path, json=body) as answer:
            if answer.status_code != 200:
                answer.read()
                self._read(answer)
            self.last_adapter = answer.headers.get("x-anabranch-adapter", "")
            self.last_abstained = answer.headers.get("x-anabranch-abstained", "")
            for line in _lines(answer):
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                if line.startswith("data:"):
                    yield from self._pieces(path, data)
        raise ClusterError(f"front door {self._url}: the answer broke off; ask again")

    def _pieces(self, path: str, data: str) -> Iterator[str]:
        """The text in one event of a chat's stream."""
        try:
            event = json.loads(data)
            if (said := _message(event)) is not None:
                raise ClusterError(f"front door {self._url}: the answer broke off: {said}")
            for choice in event["choices"]:
                yield str((choice.get("delta") or {}).get("content") or "")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise self._unknown_form(path, "an event has no choices") from error

    def _ask(self, form: type[B], verb: str, path: str, body: Any = None) -> B:
        with self._reached():
            answer = self._http.request(verb, path, json=body)
        try:
            return form.model_validate(self._read(answer))
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            where = ".".join(map(str, fault["loc"]))
            raise self._unknown_form(path, f"{where}: {fault['msg']}" if where else fault["msg"]) from error

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = f"no answer ({str(error) or type(error).__name__})"
            remedy = "start one with `anabranch up`, or name another with --url"
            raise ClusterError(f"front door {self._url}: {why}; {remedy}") from error
        except UnicodeEncodeError as error:
            raise ClusterError("expected a text in UTF-8, got bytes that are none") from error

    def _read(self, answer: httpx.Response) -> Any:
        """The body of an answer that is none of an error."""
        try:
            body = answer.json()
        except (ValueError, RecursionError):
            body = None
        if not answer.is_success:
            said = _message(body) or answer.reason_phrase or "no reason given"
            remedy = f"; the key comes from {API_KEY}" if answer.status_code == 401 else ""
            what = f"front door {self._url}: status {answer.status_code}: {said}{remedy}"
            raise TooLarge(what) if answer.status_code == 413 else ClusterError(what)
        if body is None:
            raise self._unknown_form(answer.url.path, "the body is no JSON")
        return body

    def _unknown_form(self, path: str, what: str) -> ClusterError:
        """For what is no answer of the front door's, or one of a service too far from this version."""
        where = f"front door {self._url}: {path}: expected an answer that this client knows"
        return ClusterError(f"{where}, got one where {what}; see that --url names an Anabranch of this version")


def _lines(answer: httpx.Response) -> Iterator[str]:
    """The lines of server-sent events. httpx's own end at whatever Unicode calls a line's end, which JSON may hold."""
    rest = b""
    for piece in answer.iter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").removesuffix("\r")
    yield rest.decode(errors="replace")


def _message(body: Any) -> str | None:
    """The words of an error in OpenAI's form, or None for what is no error."""
    error = body.get("error") if isinstance(body, dict) else None
    if not error:
        return None
    said = error.get("message") if isinstance(error, dict) else error
    return plain(str(said or "")) or "no reason given"

"""The HTTP client of the front door: typed answers, and every failure as one line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

from cluster.errors import ClusterError
from serving.api import CommandResult, DomainList, DomainStatus, RecordsResult, RouteDecision, RouteResult, SystemStatus
from streaming.records import EndOfDomain, TaskRecord

_RECORDS = 500
"""In one request: well below the front door's limit for records of ordinary size."""


class Client:
    """Speaks to the front door at `url`; every failure is a `ClusterError` with one line."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._http = httpx.Client(base_url=self._url, timeout=120)
        self.last_adapter = ""

    def status(self) -> SystemStatus:
        """The whole system's state."""
        return SystemStatus.model_validate(self._send("GET", "/v1/status"))

    def domains(self) -> tuple[DomainStatus, ...]:
        """Every known domain."""
        return DomainList.model_validate(self._send("GET", "/v1/domains")).domains

    def route(self, text: str) -> RouteDecision:
        """Which domain a text belongs to."""
        body = {"messages": [{"role": "user", "content": text}]}
        return RouteResult.model_validate(self._send("POST", "/v1/route", body)).decisions[0]

    def command(self, name: str, domain: str, version: str | None) -> CommandResult:
        """Run `remove`, `rollback`, `pin` or `unpin` on a domain."""
        if name == "remove":
            return CommandResult.model_validate(self._send("DELETE", f"/v1/domains/{domain}"))
        body = {"version": version}
        return CommandResult.model_validate(self._send("POST", f"/v1/domains/{domain}/{name}", body))

    def append(self, records: Sequence[TaskRecord | EndOfDomain]) -> list[str]:
        """Send records in order, in requests of bounded size, each durable when it returns; returns their ids."""
        ids: list[str] = []
        for start in range(0, len(records), _RECORDS):
            body = [record.to_mapping() for record in records[start : start + _RECORDS]]
            ids += RecordsResult.model_validate(self._send("POST", "/v1/records", body)).ids
        return ids

    def stream_chat(self, model: str, text: str) -> Iterator[str]:
        """Ask one question and yield the answer in pieces; `last_adapter` then names the version that spoke."""
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": text}]}
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    answer.read()
                    self._read(answer)
                self.last_adapter = answer.headers.get("x-anabranch-adapter", "")
                for line in answer.iter_lines():
                    data = line.removeprefix("data: ")
                    if line.startswith("data: ") and data != "[DONE]":
                        for choice in json.loads(data)["choices"]:
                            yield choice["delta"].get("content") or ""
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _send(self, verb: str, path: str, body: Any = None) -> Any:
        try:
            answer = self._http.request(verb, path, json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        return self._read(answer)

    def _unreachable(self, error: Exception) -> ClusterError:
        return ClusterError(
            f"front door {self._url}: no answer ({error}); start one with `anabranch up`, or name another with --url"
        )

    def _read(self, answer: httpx.Response) -> Any:
        try:
            body = answer.json()
        except ValueError:
            body = {}
        if answer.status_code >= 400:
            said = body.get("error", {}).get("message") if isinstance(body, dict) else None
            raise ClusterError(f"front door {self._url}: status {answer.status_code}: {said or answer.text[:200]}")
        return body

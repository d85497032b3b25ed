"""The command line's HTTP client of the front door."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from cluster.errors import ClusterError


class Client:
    """Speaks to the front door at `url`; every failure is a `ClusterError` with one line."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._http = httpx.Client(base_url=self._url, timeout=120)
        self.last_adapter = ""

    def get(self, path: str) -> Any:
        """GET a path and return its JSON."""
        return self.send("get", path, None)

    def post(self, path: str, body: Any) -> Any:
        """POST JSON and return the answer's JSON."""
        return self.send("post", path, body)

    def send(self, verb: str, path: str, body: Any) -> Any:
        """Send a request and return the answer's JSON."""
        try:
            answer = self._http.request(verb.upper(), path, json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        return self._read(answer)

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

"""What a client of the benchmarks makes of answers that are late."""

from __future__ import annotations

import httpx
import pytest

from benchmarks import evaluation
from benchmarks.evaluation import Asker


@pytest.mark.parametrize(("busy", "patience", "fails"), [(2, 60.0, False), (1, 0.0, True)])
async def test_a_status_that_nobody_has_time_for_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, busy: int, patience: float, fails: bool
) -> None:
    monkeypatch.setattr(evaluation, "_STATUS_PAUSE_S", 0.0)
    monkeypatch.setattr(evaluation, "_STATUS_PATIENCE_S", patience)
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if len(asked) <= busy:
            return httpx.Response(503)
        base = {"model": "tiny", "revision": "r0", "digest": ""}
        whole = {"manifest": 3, "base": base, "domains": [], "ingest": [], "replicas": {}, "unread": []}
        return httpx.Response(200, json=whole)

    asker = Asker("http://service", max_tokens=1, concurrency=1)
    asker._http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://service")
    try:
        if fails:
            with pytest.raises(httpx.HTTPStatusError, match="503"):
                await asker.status()
        else:
            assert (await asker.status()).manifest == 3
            assert asked == ["/v1/status"] * (busy + 1)
    finally:
        await asker.close()

"""What a client of the benchmarks reads, and what it makes of answers that are late."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from benchmarks import evaluation
from benchmarks.evaluation import Asker, Question, read_questions


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


def test_a_line_of_questions_may_hold_what_unicode_calls_the_end_of_one(tmp_path: Path) -> None:
    rows = [
        {"task": "dates", "input": "a\u2028b", "output": "c\x85"},
        {"domain": "d", "prompt": "p", "completion": "q"},
    ]
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert read_questions(path) == [Question("dates", "a\u2028b", "c\x85"), Question("d", "p", "q")]

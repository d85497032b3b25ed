"""Tokens of streams as vLLM tells them: counted is what the whole answer's usage says, and nothing more is shown."""

from __future__ import annotations

from typing import Any

import pytest

from serving.caller import CALLER, Caller
from serving.frontdoor import build_app
from tests.serving.conftest import Notebook, Theatre
from tests.serving.test_frontdoor import events

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]


class Counted:
    """The application for a caller whose tokens are counted."""

    def __init__(self, app: Any, spent: list[int]) -> None:
        self._app, self._spent = app, spent

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        token = CALLER.set(Caller("k", spend=self._spent.append))
        try:
            await self._app(scope, receive, send)
        finally:
            CALLER.reset(token)


def bare(text: str) -> tuple[str, set[str], Any]:
    """What is said in all, which fields say it, and the last usage: how many tokens an event has is chance."""
    told = events(text)
    parts = [choice for each in told for choice in each["choices"]]
    said = "".join(part.get("text") or (part.get("delta") or {}).get("content") or "" for part in parts)
    return said, {field for each in told for field in each}, told[-1].get("usage")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "banking", "messages": [{"role": "user", "content": "my card"}]}),
        ("/v1/completions", {"model": "banking", "prompt": "my card"}),
        ("/v1/completions", {"model": "banking", "prompt": ["my card", "a loan"], "n": 2}),
        ("/v1/completions", {"model": "auto", "prompt": ["my card", "a flight to Rome", "a day off"]}),
    ],
    ids=["chat", "completion", "several", "adapters"],
)
@pytest.mark.parametrize("shown", [False, True])
async def test_a_stream_counts_what_the_whole_answer_does(
    theatre: Theatre, path: str, body: dict[str, Any], shown: bool
) -> None:
    import httpx

    await theatre.publish("banking", "travel", "work")
    spent: list[int] = []
    plain = build_app(theatre.service, Notebook())
    asked = {"max_tokens": 6, "temperature": 0.5 if body.get("n") else 0, **body}
    streamed = {**asked, "stream": True} | ({"stream_options": {"include_usage": True}} if shown else {})
    async with (
        httpx.AsyncClient(transport=httpx.ASGITransport(app=plain), base_url="http://a") as other,
        httpx.AsyncClient(transport=httpx.ASGITransport(app=Counted(plain, spent)), base_url="http://a") as client,
    ):
        whole = (await client.post(path, json=asked)).json()["usage"]["total_tokens"]
        counted = await client.post(path, json=streamed)
        uncounted = await other.post(path, json=streamed)
    assert counted.status_code == 200 and spent == [whole, whole]
    assert ("usage" in counted.text) == shown == ("usage" in uncounted.text)
    if not isinstance(body.get("prompt"), list):
        assert bare(counted.text) == bare(uncounted.text)

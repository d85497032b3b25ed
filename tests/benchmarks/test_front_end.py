"""The benchmark of the front end on two servers whose costs are known: it counts what it says, and divides it right."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import psutil
import pytest
from starlette.types import Receive, Scope, Send

from benchmarks import front_end
from benchmarks.front_end import TOKENS, Server, measure
from serving.listener import Listener

pytestmark = pytest.mark.slow

COSTS = {"vllm": 0.01, "anabranch": 0.03}
"""Seconds of the processor for each answer."""


def application(busy_s: float) -> Any:
    """Answers after so much work of the processor."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        body = json.loads((await receive())["body"])
        until = time.thread_time() + busy_s
        while time.thread_time() < until:
            pass
        if body.get("stream"):
            content = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: [DONE]\n\n'
        else:
            content = json.dumps({"usage": {"completion_tokens": TOKENS}}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return answer


async def test_it_counts_processor_time_a_request() -> None:
    listeners = {name: await Listener.start(application(busy), "127.0.0.1") for name, busy in COSTS.items()}
    servers = {
        name: Server(f"http://{listener.address}", "base", psutil.Process(), lambda title: True)
        for name, listener in listeners.items()
    }
    result = await measure(servers, 1, 12)
    await asyncio.gather(*(listener.close(5) for listener in listeners.values()))
    assert len(result["turns"]) == 2 * len(front_end.IN_FLIGHT)
    for turn in result["turns"]:
        # Of clients and the other parts of this process too, which both have alike.
        assert 8 < turn["anabranch"]["front_ms"] - turn["vllm"]["front_ms"] < 60
        assert turn["vllm"]["engine_ms"] == 0
    figures = result["median_ratios"]["named 8"]
    assert abs(figures["front_ms"] - figures["front_ms_anabranch"] / figures["front_ms_vllm"]) < 0.05
    assert figures["requests_per_second"] < 1 < figures["front_ms"] and result["median_ratios"]["first_token"] > 1

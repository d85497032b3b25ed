"""What is decided about a request is decided on what vLLM itself has parsed of it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from serving.frontdoor import build_app
from tests.serving.conftest import Notebook, Theatre
from tests.serving.stage import DOMAINS

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

TAKEN: list[Any] = [[1, 2.0], [True, False], [[5, 6.0], [7]], ["1", "2"], "1", ["once", "lily"], [""], ["once", ""]]
REFUSED: list[Any] = [None, "", [], [[]], [1, None], [1.5], [[1], "x"], [[["a"]]], 7, {}, [-1], ["x", 1], [2**70]]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def http(theatre: Theatre) -> AsyncIterator[httpx.AsyncClient]:
    if not theatre.service.served().by_domain:
        await theatre.publish(*DOMAINS)
    transport = httpx.ASGITransport(app=build_app(theatre.service, Notebook()), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://replica/v1", timeout=60) as client:
        yield client


@pytest.mark.parametrize("prompt", [*TAKEN, *REFUSED], ids=str)
async def test_auto_and_base_read_a_prompt_alike(http: httpx.AsyncClient, prompt: Any) -> None:
    body = {"prompt": prompt, "max_tokens": 1, "n": "2", "stream": "false", "stop": None}
    for model in ("auto", "base", None):
        answer = await http.post("/completions", json={"model": model, **body})
        assert answer.status_code == (200 if prompt in TAKEN else 400), (model, answer.text)
        if answer.status_code == 200:
            assert len(answer.json()["choices"]) == 2 * len(answer.json()["anabranch"]["decisions"])


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, 200),
        ({"role": "user", "content": ["a", "b"]}, 400),
        ({"role": "zebra", "content": "a"}, 200),
        ({"role": "user", "content": 5}, 400),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, 400),
        ({"content": "a"}, 400),
    ],
)
async def test_auto_and_base_read_a_chat_alike(http: httpx.AsyncClient, message: Any, status: int) -> None:
    for model in ("auto", "base"):
        body = {"model": model, "messages": [message], "max_tokens": None, "max_completion_tokens": 1}
        answer = await http.post("/chat/completions", json=body)
        assert answer.status_code == status, (model, answer.text)


async def test_requests_of_one_id_get_their_own_answers(http: httpx.AsyncClient, theatre: Theatre) -> None:
    prompts = [theatre.texts[domain][0] + "\n" for domain in DOMAINS]
    body = {"model": "auto", "max_tokens": 4, "temperature": 0, "ignore_eos": True}
    alone = [(await http.post("/completions", json={**body, "prompt": prompt})).json() for prompt in prompts]
    same = {"x-request-id": "same"}
    batch = http.post("/completions", json={**body, "prompt": prompts}, headers=same)
    ask = [http.post("/completions", json={**body, "prompt": prompt}, headers=same) for prompt in prompts]
    together, *each = [answer.json() for answer in await asyncio.gather(batch, *ask)]
    expected = [answer["choices"][0]["text"] for answer in alone]
    assert [answer["choices"][0]["text"] for answer in each] == expected
    assert [choice["text"] for choice in together["choices"]] == expected


async def test_a_streamed_batch_tells_its_routing_in_its_first_event(http: httpx.AsyncClient, theatre: Theatre) -> None:
    prompts = [theatre.texts[DOMAINS[index % 3]][0] + "\n" for index in range(18)]
    body = {"model": "auto", "prompt": prompts, "max_tokens": 1, "stream": True}
    answer = await http.post("/completions", json=body)
    first, *rest = [line for line in answer.text.splitlines() if line]
    assert '"anabranch":{"manifest":' in first and not any("anabranch" in line for line in rest)
    assert rest.pop() == "data: [DONE]"
    assert all(line.count('"system_fingerprint"') == 1 for line in (first, *rest))
    assert answer.headers["x-anabranch-domain"].endswith(",...")

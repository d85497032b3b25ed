"""Chats of several turns: what is scored, who goes on answering, what a session adds."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from registry.adapters import Adapter
from registry.registry import Registry
from serving.api import RouteResult
from serving.conversation import turns
from serving.frontdoor import build_app
from serving.service import RoutedService
from serving.sessions import Answered, Sessions
from tests.serving.conftest import KNOBS, PlainTemplate
from tests.serving.memory_engine import MemoryEngine
from tests.serving.publisher import BASE, Publisher, word_router
from tests.serving.test_segments import COLUMNS, Fussy

MARGIN = 1.0
SYSTEM, ANSWER, EMPTY = ("system", "woof woof woof"), ("assistant", "woof woof woof"), ("user", " \n")
CALL, TOOL = ("assistant", None), ("tool", "woof woof woof")
Turn = tuple[str, Any]


def said(*turns_: Turn | str) -> list[dict[str, Any]]:
    pairs = [("user", turn) if isinstance(turn, str) else turn for turn in turns_]
    return [{"role": role, "content": content} for role, content in pairs]


def replica(engine: MemoryEngine, registry: Registry) -> RoutedService:
    features = Fussy(list(COLUMNS.values()))
    return RoutedService(engine, registry, lambda _: features, PlainTemplate(), KNOBS, BASE, conversation_margin=MARGIN)


@pytest.fixture
def service(engine: MemoryEngine, registry: Registry) -> RoutedService:
    return replica(engine, registry)


@pytest_asyncio.fixture
async def cast(service: RoutedService, publisher: Publisher) -> list[Adapter]:
    adapters = [publisher.adapter("cats", 1), publisher.adapter("cats", 2), publisher.adapter("dogs", 1)]
    publisher.publish(adapters, word_router(COLUMNS))
    await service.catch_up()
    return adapters


async def ask(client: httpx.AsyncClient, *said_: Turn | str, session: str | None = None, **more: Any) -> str:
    headers = {} if session is None else {"x-anabranch-session": session}
    body = {"messages": said(*said_), **more}
    answer = await client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-anabranch-adapter"].split("-")[0]


@pytest.mark.parametrize(
    ("chat", "who"),
    [
        (["meow"], "cats@v1"),
        (["meow", ANSWER, "and tomorrow?"], "cats@v1"),  # says nothing by itself
        (["meow", ANSWER, "meow again"], "cats@v1"),
        (["meow", ANSWER, "purr purr purr"], "cats@v1"),  # its own domain's other segment: the adapter stays
        (["meow", ANSWER, "woof"], "cats@v1"),  # leads by 1, which is not beyond the margin
        (["meow", ANSWER, "woof woof"], "dogs@v1"),
        (["meow", ANSWER, "woof woof meow"], "cats@v1"),  # leads by 1
        (["woof", ANSWER, "meow meow", ANSWER, "and tomorrow?"], "dogs@v1"),  # the first and the last alone
        (["hello", ANSWER, "meow"], "cats@v1"),  # nobody's before
        (["hello", ANSWER, "moo"], "base"),
        ([SYSTEM, "meow", ANSWER, "why?"], "cats@v1"),
        (["meow", CALL, TOOL], "cats@v1"),  # a tool's answer is nobody's message
        (["meow", ("assistant", "woof woof")], "cats@v1"),  # nor is an answer that is to be gone on with
        ([EMPTY, ANSWER, "meow", ANSWER, "why?"], "cats@v1"),
        ([("user", []), "meow", EMPTY], "cats@v1"),
        (["meow", ("user", [{"type": "text", "text": "woof"}, {"type": "text", "text": "woof"}])], "dogs@v1"),
        (["meow", "poison"], "cats@v1"),  # no features can be made of it
        (["poison", "woof"], "dogs@v1"),
        (["poison", "poison"], "base"),
    ],
    ids=str,
)
async def test_the_firsts_domain_stays_unless_the_last_leads(
    client: httpx.AsyncClient, cast: Any, chat: list[Any], who: str
) -> None:
    assert await ask(client, *chat) == who
    routed = await client.post("/v1/route", json={"messages": said(*chat)})
    assert routed.json()["decisions"][0]["adapter"].split("-")[0] == who


async def test_both_turns_are_told(client: httpx.AsyncClient, cast: Any) -> None:
    async def told(*chat: Any) -> Any:
        answer = await client.post("/v1/route", json={"messages": said(*chat)})
        return RouteResult.model_validate(answer.json()).decisions[0]

    stays = await told("meow", "woof woof meow")
    assert [(turn.domain, turn.score) for turn in stays.turns] == [("cats", 1.0), ("dogs", 2.0)]
    assert (stays.domain, stays.score, stays.lead) == ("cats", 1.0, 1.0)
    goes = await told("meow", "woof woof woof meow")
    assert (goes.domain, goes.score, goes.lead) == ("dogs", 3.0, 2.0)
    short = await told("meow", "why?")
    assert (short.lead, short.turns[1].domain) == (None, "base") and short.turns[1].abstained
    assert short.abstained is None
    alone = await told("meow")
    assert (alone.turns, alone.lead) == ((), None)


async def test_a_chat_keeps_its_adapter_turn_by_turn(client: httpx.AsyncClient, cast: Any) -> None:
    chat: list[Any] = ["purr"]
    for follow in ("and tomorrow?", "meow", "woof", "why?"):
        assert await ask(client, *chat) == "cats@v2"
        chat += [ANSWER, follow]
    assert await ask(client, *chat) == "cats@v2"


@pytest.mark.parametrize("second", ["meow meow meow", "woof", "why?"])
async def test_a_domain_of_segments_by_name_keeps_the_first_messages(
    client: httpx.AsyncClient, cast: Any, second: str
) -> None:
    assert await ask(client, "purr", ANSWER, second, model="cats") == "cats@v2"


async def test_a_session_goes_on_where_it_was(client: httpx.AsyncClient, cast: Any) -> None:
    assert await ask(client, "meow", ANSWER, "woof woof", session="a") == "dogs@v1"
    # By its messages it would be the cats' again.
    assert await ask(client, "meow", ANSWER, "woof woof", ANSWER, "why?") == "cats@v1"
    assert await ask(client, "meow", ANSWER, "woof woof", ANSWER, "why?", session="a") == "dogs@v1"
    assert await ask(client, "and then?", session="a") == "dogs@v1"  # without what was said before
    assert await ask(client, "and then?", session="b") == "base"
    assert await ask(client, "purr purr purr", session="a") == "cats@v2"
    assert await ask(client, "meow", session="a", model="cats") == "cats@v2"
    assert await ask(client, "woof", session="a", model="dogs") == "dogs@v1"


async def test_a_session_keeps_its_version_while_that_is_served_and_its_domain_after(
    client: httpx.AsyncClient, service: RoutedService, publisher: Publisher, cast: list[Adapter]
) -> None:
    assert await ask(client, "meow", session="a") == "cats@v1"
    newer = publisher.adapter("cats", 3)
    publisher.publish([cast[0], newer, cast[2]], word_router(COLUMNS))
    await service.catch_up()
    assert await ask(client, "purr", session="a") == "cats@v1"
    publisher.publish([newer, cast[2]], word_router(COLUMNS))
    await service.catch_up()
    assert await ask(client, "why?", session="a") == "cats@v3"
    publisher.publish([cast[2]], word_router(COLUMNS))
    await service.catch_up()
    assert await ask(client, "why?", session="a") == "base"


async def test_on_another_replica_the_messages_decide(
    client: httpx.AsyncClient, registry: Registry, publisher: Publisher, notebook: Any, cast: Any
) -> None:
    other = replica(MemoryEngine(), registry)
    await other.catch_up()
    transport = httpx.ASGITransport(app=build_app(other, notebook))
    async with httpx.AsyncClient(transport=transport, base_url="http://other") as elsewhere:
        assert await ask(client, "meow", session="a") == "cats@v1"
        assert await ask(elsewhere, "meow", ANSWER, "why?", session="a") == "cats@v1"
        assert await ask(elsewhere, "why?", session="c") == "base"


@pytest.mark.parametrize("name", ["", "two words", "x" * 129, "ü"])
async def test_a_name_that_is_none_is_refused(client: httpx.AsyncClient, cast: Any, name: str) -> None:
    headers = {"x-anabranch-session": name.encode()}
    answer = await client.post("/v1/chat/completions", json={"messages": said("meow")}, headers=headers)
    assert answer.status_code == 400 and "session" in answer.json()["error"]["message"]


def test_sessions_are_bounded_in_number_and_time() -> None:
    now = [0.0]
    sessions = Sessions(seconds=10, most=3, clock=lambda: now[0])
    for number in range(5):
        now[0] += 1
        sessions.put(str(number), Answered("d", f"d@v{number}"))
    assert len(sessions) == 3 and sessions.get("1") is None and sessions.get("2") is not None
    now[0] += 5
    sessions.put("2", Answered("d", "d@v9"))
    now[0] += 6
    assert (sessions.get("3"), sessions.get("4"), sessions.get("2")) == (None, None, Answered("d", "d@v9"))
    now[0] += 5
    assert sessions.get("2") is None and len(sessions) == 0


ROLES = st.sampled_from(["system", "user", "assistant", "tool", "developer"])
CHATS = st.lists(
    st.builds(lambda role, text: {"role": role, "content": text}, ROLES, st.sampled_from(["", " ", "a", "b"]))
)


@given(chat=CHATS, later=CHATS)
def test_what_opens_a_chat_is_scored_alike_in_every_turn(chat: list[Any], later: list[Any]) -> None:
    opened = [*chat, {"role": "user", "content": "first"}, *later]
    found = turns(opened)
    assert 1 <= len(found) <= 2
    assert found[0] == turns(opened[: len(chat) + 1])[0]
    for turn in found:
        assert [message["role"] for message in turn].count("user") == 1 and turn[-1]["content"].strip()
    assert turns(said(SYSTEM, "a")) == [said(SYSTEM, "a")] and turns(said("")) == [said("")]

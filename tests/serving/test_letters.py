"""Dead letters over HTTP: the newest first, bounded, chosen or all; a bad request does nothing."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from serving.past_bodies import Letter, LetterChoice
from tests.serving.conftest import Notebook


def letter(offset: int) -> Letter:
    return Letter(topic="t", partition=0, offset=offset, reason="undecodable", detail="not JSON", at=1.0, text="{")


async def test_the_newest_first_and_as_many_as_were_asked_for(client: httpx.AsyncClient, notebook: Notebook) -> None:
    notebook.letters = [letter(offset) for offset in range(150)]
    answer = (await client.get("/v1/dead-letters")).json()
    assert answer["total"] == 150 and [each["offset"] for each in answer["letters"]] == list(range(149, 49, -1))
    assert [each["offset"] for each in (await client.get("/v1/dead-letters?limit=2")).json()["letters"]] == [149, 148]
    assert (await client.get("/v1/dead-letters?limit=0")).status_code == 400


async def test_all_or_those_that_are_named_are_sent_again(client: httpx.AsyncClient, notebook: Notebook) -> None:
    notebook.letters = [letter(1), letter(2)]
    assert (await client.post("/v1/dead-letters/replay")).json() == {"replayed": 2, "kept": []}
    assert (await client.post("/v1/dead-letters/replay", json={"letters": None})).json()["replayed"] == 2
    chosen = {"letters": [{"topic": "t", "partition": 0, "offset": 2, "text": "{}"}]}
    assert (await client.post("/v1/dead-letters/replay", json=chosen)).json()["replayed"] == 1
    assert (await client.post("/v1/dead-letters/replay", json={"letters": []})).json()["replayed"] == 0
    assert notebook.replays == [None, None, (LetterChoice(topic="t", partition=0, offset=2, text="{}"),), ()]


@pytest.mark.parametrize("body", [{"letters": 7}, {"letters": [{"topic": "t"}]}, [], {"letters": [None]}])
async def test_what_names_none_is_refused_and_nothing_is_sent(
    client: httpx.AsyncClient, notebook: Notebook, body: Any
) -> None:
    answer = await client.post("/v1/dead-letters/replay", json=body)
    assert answer.status_code == 400 and "letters" in answer.json()["error"]["message"]
    assert notebook.replays == []


async def test_what_is_away_is_503(client: httpx.AsyncClient, notebook: Notebook) -> None:
    notebook.up = False
    assert (await client.get("/v1/dead-letters")).status_code == 503
    assert (await client.post("/v1/dead-letters/replay")).status_code == 503

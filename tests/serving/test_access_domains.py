"""Keys for some domains: who may answer them, what they are told of, and which records and commands are theirs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from registry.adapters import Adapter
from serving.caller import CALLER, Caller
from serving.selection import Choice, routing
from tests.serving.doors import House
from tests.serving.test_access import RECORD, refused


@pytest.mark.parametrize(
    ("model", "prompt", "status"),
    [
        ("cats", "woof", 200),
        ("VERSION cats", "woof", 200),
        ("auto", "meow", 200),
        (None, "meow", 200),
        ("dogs", "meow", 403),
        ("VERSION dogs", "meow", 403),
        ("auto", "woof", 403),
        ("auto", "moo", 403),
        ("base", "meow", 403),
        ("cows", "meow", 403),
        ("cats+dogs", "meow", 403),
        ("cats@v9-00000000", "meow", 404),
        ("auto", ["meow", "meow"], 200),
        ("auto", ["meow", "woof"], 403),
    ],
)
async def test_a_key_for_some_domains_is_answered_by_them_alone(
    house: House, cast: dict[str, Adapter], model: str | None, prompt: Any, status: int
) -> None:
    app = house.app()
    headers = house.key("infer", domains=("cats",))
    named = cast[model.split()[1]].name if model and model.startswith("VERSION") else model
    body = {"prompt": prompt} if named is None else {"model": named, "prompt": prompt}
    async with house.client(app) as client:
        answer = await client.post("/v1/completions", json=body, headers=headers)
        assert answer.status_code == status, answer.text
        if status == 403:
            assert refused(answer, 403, "PermissionDeniedError") and "dogs" not in answer.text
            assert not any(name.startswith("x-anabranch") for name in answer.headers)
    assert house.service.health().leases == 0


async def test_the_base_is_one_of_the_domains_that_a_key_may_be_for(house: House, cast: dict[str, Adapter]) -> None:
    app = house.app()
    headers = house.key("infer", domains=("cats", "base"))
    async with house.client(app) as client:
        for model, prompt in (("auto", "moo"), ("base", "woof")):
            answer = await client.post("/v1/completions", json={"model": model, "prompt": prompt}, headers=headers)
            assert answer.status_code == 200 and answer.headers["x-anabranch-domain"] == "base"


async def test_other_domains_are_not_told_of(house: House, cast: dict[str, Adapter]) -> None:
    app = house.app()
    headers = house.key("infer", "admin", domains=("cats",))
    async with house.client(app) as client:
        listed = (await client.get("/v1/models", headers=headers)).json()["data"]
        assert [card["id"] for card in listed] == ["auto", "cats", cast["cats"].name]
        assert (await client.get("/v1/models/dogs", headers=headers)).status_code == 404
        decided = (await client.post("/v1/route", json={"input": "meow"}, headers=headers)).json()["decisions"]
        assert decided[0]["scores"].keys() == {"cats"}
        refused(await client.post("/v1/route", json={"input": "woof"}, headers=headers), 403, "PermissionDeniedError")
        domains = (await client.get("/v1/domains", headers=headers)).json()["domains"]
        assert [(each["domain"], each["routed_to"]) for each in domains] == [("cats", {"cats": 0.75})]
        of_all = ("status", "keys", "audit", "events", "decisions", "decisions/a", "publications", "dead-letters")
        for path in ("/metrics", *(f"/v1/{name}" for name in of_all)):
            refused(await client.get(path, headers=headers), 403, "PermissionDeniedError")
        body = {"name": "more", "scopes": ["infer"]}
        refused(await client.post("/v1/keys", json=body, headers=headers), 403, "PermissionDeniedError")


async def test_commands_are_for_the_key_s_domains(house: House) -> None:
    app = house.app()
    headers = house.key("admin", domains=("cats",))
    async with house.client(app) as client:
        for method, path in (("DELETE", ""), *(("POST", f"/{n}") for n in ("rollback", "pin", "unpin", "learn"))):
            assert (await client.request(method, f"/v1/domains/cats{path}", headers=headers)).status_code == 200
            answer = await client.request(method, f"/v1/domains/dogs{path}", headers=headers)
            refused(answer, 403, "PermissionDeniedError")
            answer = await client.request(method, f"/v1/domains/cows{path}", headers=headers)
            refused(answer, 403, "PermissionDeniedError")
    assert {call[1] for call in house.notebook.calls} == {"cats"}


@pytest.mark.parametrize(
    "records",
    [
        [{**RECORD, "domain": "dogs"}],
        [RECORD, {**RECORD, "domain": "dogs"}],
        [{"task": "dogs", "input": "a", "output": "b"}],
        [{"task": "dogs", "domain": "cats", "input": "a", "output": "b"}],
        [{**RECORD, "domain": "CATS"}],
        [{**RECORD, "domain": ["cats"]}],
        [{**RECORD, "domain": None}],
        [{"kind": "end_of_domain", "domain": "dogs"}],
        [{"kind": "end_of_domain"}],
    ],
    ids=json.dumps,
)
async def test_records_are_of_the_key_s_domains_or_nothing_is_written(house: House, records: list[Any]) -> None:
    app = house.app()
    headers = house.key("ingest", domains=("cats",))
    async with house.client(app) as client:
        answer = await client.post("/v1/records", json=records, headers=headers)
        refused(answer, 403, "PermissionDeniedError")
        assert house.notebook.records == []
        assert (await client.post("/v1/records", json=[RECORD, RECORD], headers=headers)).status_code == 202


async def test_turns_of_other_domains_are_not_told_of(house: House, cast: dict[str, Adapter]) -> None:
    served = house.service.served()
    cats, dogs = (Choice(served.by_domain[name].newest) for name in ("cats", "dogs"))
    stayed = replace(cats, turns=(cats, dogs))
    told = routing(served, [stayed]).decisions[0].turns
    assert [turn.domain for turn in told] == ["cats", "dogs"]
    token = CALLER.set(Caller("key", domains=frozenset({"cats"})))
    try:
        told = routing(served, [stayed]).decisions[0].turns
    finally:
        CALLER.reset(token)
    assert [turn.domain for turn in told] == ["cats"]

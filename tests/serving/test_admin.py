"""Ingest and domain commands: what reaches the control port, and what is refused before."""

import httpx
import pytest

from serving.api import DomainList
from tests.serving.conftest import Notebook

RECORD = {"id": "1", "domain": "cats", "prompt": "p", "completion": "c"}


async def test_one_record_a_list_and_lines(client: httpx.AsyncClient, notebook: Notebook) -> None:
    one = await client.post("/v1/records", json=RECORD)
    assert one.status_code == 202 and one.json() == {"ids": ["1"]}
    many = await client.post("/v1/records", json=[{**RECORD, "id": "2"}, {**RECORD, "id": "3"}])
    assert many.json() == {"ids": ["2", "3"]}
    lines = '{"id": "4", "completion": "c"}\n\n{"id": "5", "completion": "c"}\n'
    assert (await client.post("/v1/records", content=lines)).json() == {"ids": ["4", "5"]}
    assert [record["id"] for record in notebook.records] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"id": "1", "completion": ""}', "record 0: empty-completion"),
        ("[]", "no record"),
        ("[1]", "record 0: expected a JSON object"),
        ("{", "no valid JSON"),
        ('{"id": "1", "completion": "c"}\n{"id": \n', "line 2"),
    ],
)
async def test_bad_records_are_refused_with_the_reason(
    client: httpx.AsyncClient, notebook: Notebook, content: str, reason: str
) -> None:
    answer = await client.post("/v1/records", content=content)
    assert answer.status_code == 400 and reason in answer.json()["error"]["message"]
    assert notebook.records == []


async def test_domain_commands(client: httpx.AsyncClient, notebook: Notebook) -> None:
    listed = DomainList.model_validate((await client.get("/v1/domains")).json())
    assert [domain.domain for domain in listed.domains] == ["cats", "dogs"]
    assert (await client.delete("/v1/domains/cats")).status_code == 200
    await client.post("/v1/domains/cats/rollback")
    await client.post("/v1/domains/cats/rollback", json={"version": "cats@v1-0a1b2c3d"})
    await client.post("/v1/domains/dogs/pin", json={"version": None})
    await client.post("/v1/domains/dogs/unpin")
    assert (await client.post("/v1/domains/dogs/learn")).json()["reason"] == "learn"
    assert notebook.calls == [
        ("remove", "cats"),
        ("rollback", "cats", "None"),
        ("rollback", "cats", "cats@v1-0a1b2c3d"),
        ("pin", "dogs", "None"),
        ("unpin", "dogs"),
        ("learn", "dogs"),
    ]


async def test_an_adapter_is_added_by_its_upload(client: httpx.AsyncClient, notebook: Notebook) -> None:
    offer = "cats@offer-0123456789abcdef"
    answer = await client.post("/v1/domains/cats/adapters", json={"offer": offer, "note": "theirs"})
    assert answer.status_code == 200 and answer.json()["reason"] == "taken"
    assert notebook.calls == [("add_adapter", "cats", offer, "theirs")]
    for body in ({}, {"offer": 3}, {"offer": None}, [], "x", {"offer": offer, "note": 3}):
        assert (await client.post("/v1/domains/cats/adapters", json=body)).status_code == 400
    assert (await client.post("/v1/domains/cats/adapters")).status_code == 400
    assert (await client.post("/v1/domains/cows/adapters", json={"offer": offer})).status_code == 404
    assert len(notebook.calls) == 1


async def test_errors_of_domain_commands(client: httpx.AsyncClient, notebook: Notebook) -> None:
    assert (await client.delete("/v1/domains/cows")).status_code == 404
    assert (await client.post("/v1/domains/cows/pin")).status_code == 404
    assert (await client.post("/v1/domains/cats/explode")).status_code == 404
    assert (await client.post("/v1/domains/cats/pin", json={"version": 3})).status_code == 400
    assert (await client.post("/v1/domains/cats/pin", json="v1")).status_code == 400
    notebook.up = False
    answer = await client.delete("/v1/domains/cats")
    assert answer.status_code == 503 and answer.headers["retry-after"]


async def test_status_holds_the_system_and_this_replica(client: httpx.AsyncClient) -> None:
    status = (await client.get("/v1/status")).json()
    assert status["manifest"] == 7 and status["replica"]["ready"] is True

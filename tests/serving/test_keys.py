"""Keys over HTTP, the acts that are recorded, and that no key is written anywhere."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.adapters import Adapter
from registry.errors import RegistryError, StoreAway
from registry.key_form import mint
from serving.key_bodies import AuditList, KeyList, KeyMade, KeyStatus
from tests.serving.doors import House
from tests.serving.sockets import listening
from tests.serving.test_access import CATS, PATHS, refused, unknown


async def test_a_key_is_made_used_rotated_and_revoked(house: House, cast: dict[str, Adapter]) -> None:
    async with listening(house.app()) as url, httpx.AsyncClient(base_url=url) as client:
        admin = house.key("admin")
        asked = {
            "name": "web",
            "scopes": ["infer"],
            "domains": ["cats"],
            "expires_at": "2999-01-01T00:00:00Z",
            "requests_per_minute": 50,
            "tokens_per_day": 1000,
        }
        answer = await client.post("/v1/keys", json=asked, headers=admin)
        assert answer.status_code == 201 and answer.headers["cache-control"] == "no-store"
        made = KeyMade.model_validate(answer.json())
        assert made.key.state == "valid" and made.key.model_dump(mode="json").items() >= asked.items()
        mine = house.bearer(made.api_key)
        assert (await client.post("/v1/completions", json=CATS, headers=mine)).status_code == 200

        path = f"/v1/keys/{made.key.id}"
        answer = await client.post(f"{path}/rotate", json={"overlap_seconds": 0}, headers=admin)
        rotated = KeyMade.model_validate(answer.json())
        assert answer.status_code == 200 and rotated.key.id == made.key.id and rotated.key.rotated_at is not None
        unknown(await client.post("/v1/completions", json=CATS, headers=mine))
        newer = house.bearer(rotated.api_key)
        assert (await client.post("/v1/completions", json=CATS, headers=newer)).status_code == 200
        answer = await client.post(f"{path}/rotate", headers=admin)
        newest = house.bearer(answer.json()["api_key"])
        for headers in (newer, newest):
            assert (await client.post("/v1/completions", json=CATS, headers=headers)).status_code == 200

        for _ in range(2):
            answer = await client.delete(path, headers=admin)
            assert KeyStatus.model_validate(answer.json()).state == "revoked"
        for headers in (newer, newest):
            unknown(await client.post("/v1/completions", json=CATS, headers=headers))
        refused(await client.post(f"{path}/rotate", headers=admin), 400, "BadRequestError")
        listed = KeyList.model_validate((await client.get("/v1/keys", headers=admin)).json()).keys
        assert [(key.name, key.state) for key in listed] == [("a", "valid"), ("web", "revoked")]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "a"},
        {"name": "a", "scopes": ["root"]},
        {"name": "a", "scopes": ["infer"], "id": "0" * 12},
        {"name": "a", "scopes": ["infer"], "requests_per_minute": 0},
        {"name": "a", "scopes": ["infer"], "expires_at": "tomorrow"},
        [],
        "a",
        None,
    ],
)
async def test_what_no_key_can_be_is_a_bad_request(house: House, body: Any) -> None:
    async with house.client(house.app()) as client:
        refused(await client.post("/v1/keys", json=body, headers=house.key("admin")), 400, "BadRequestError")
        assert len(house.access.store.read()) == 1


async def test_keys_that_are_not_there(house: House) -> None:
    async with house.client(house.app()) as client:
        admin = house.key("admin")
        for path in ("/v1/keys/0123456789ab", "/v1/keys/x"):
            refused(await client.delete(path, headers=admin), 404, "NotFoundError")
            refused(await client.post(f"{path}/rotate", headers=admin), 404, "NotFoundError")
        for overlap in (-1, 10**9, "x"):
            body = {"overlap_seconds": overlap}
            refused(await client.post("/v1/keys/x/rotate", json=body, headers=admin), 400, "BadRequestError")


async def test_two_keys_are_rotated_at_once(house: House) -> None:
    app = house.app()
    admin, keys = house.key("admin"), [house.made_key("infer")[0] for _ in range(2)]
    async with house.client(app) as client:
        asked = [client.post(f"/v1/keys/{key.id}/rotate", headers=admin) for key in keys * 3]
        answers = await asyncio.gather(*asked)
        for answer in answers:
            headers = house.bearer(answer.json()["api_key"])
            assert (await client.get("/v1/models", headers=headers)).status_code == 200


async def test_administrators_acts_are_recorded_with_who_and_how_they_ended(house: House) -> None:
    async with listening(house.app()) as url, httpx.AsyncClient(base_url=url) as client:
        key, admin = house.made_key("admin")
        made = (await client.post("/v1/keys", json={"name": "b", "scopes": ["infer"]}, headers=admin)).json()["key"]
        await client.post("/v1/domains/cats/pin", json={"version": "cats@v1-0a1b2c3d"}, headers=admin)
        await client.delete("/v1/domains/cows", headers=admin)
        await client.post("/v1/records", json={"id": "1", "completion": "c"}, headers=house.key("ingest"))
        await client.get("/v1/domains", headers=admin)
        await client.delete("/v1/domains/cats", headers=house.key("infer"))
        house.notebook.up = False
        await client.delete("/v1/domains/cats", headers=admin)
        acts = AuditList.model_validate((await client.get("/v1/audit", headers=admin)).json()).acts
        assert [(act.what, act.outcome) for act in acts] == [
            ("DELETE /v1/domains/cats", "503"),
            ("DELETE /v1/domains/cows", "404"),
            ("POST /v1/domains/cats/pin", "200 version cats@v1-0a1b2c3d"),
            ("POST /v1/keys", f"201 key {made['id']} for infer"),
        ]
        assert {act.who for act in acts} == {key.id}
        assert len((await client.get("/v1/audit?limit=2", headers=admin)).json()["acts"]) == 2
        for limit in ("0", "1001", "x", "-1", "9" * 30, "²"):
            refused(await client.get("/v1/audit", params={"limit": limit}, headers=admin), 400, "BadRequestError")


async def test_an_act_that_can_t_be_recorded_is_not_done(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house.client(house.app()) as client:
        admin = house.key("admin")

        def full(*_: object) -> str:
            raise RegistryError("the disk is full")

        monkeypatch.setattr(house.access.audit, "begin", full)
        answer = await client.delete("/v1/domains/cats", headers=admin)
        assert "nothing was done" in refused(answer, 503, "ServiceUnavailableError") and answer.headers["retry-after"]
        assert house.notebook.calls == []
        assert (await client.get("/v1/domains", headers=admin)).status_code == 200


async def test_an_act_that_fails_is_recorded_as_failed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(domain: str) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(house.notebook, "remove", broken)
    async with house.client(house.app()) as client:
        admin = house.key("admin")
        assert (await client.delete("/v1/domains/cats", headers=admin)).status_code == 500
        assert (await client.get("/v1/audit", headers=admin)).json()["acts"][0]["outcome"] == "500"


async def test_a_registry_that_is_away_is_said(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house.client(house.app()) as client:
        admin = house.key("admin")
        assert (await client.get("/v1/keys", headers=admin)).status_code == 200

        def away(*_: object) -> None:
            raise StoreAway("s3://bucket/keys.json: get failed")

        for name in ("read", "create", "revoke"):
            monkeypatch.setattr(house.access.store, name, away)
        body = {"name": "b", "scopes": ["infer"]}
        for answer in (
            await client.get("/v1/keys", headers=admin),
            await client.post("/v1/keys", json=body, headers=admin),
            await client.delete("/v1/keys/0123456789ab", headers=admin),
        ):
            refused(answer, 503, "ServiceUnavailableError")


async def test_no_key_is_logged_recorded_or_echoed(
    house: House,
    cast: dict[str, Adapter],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Every path with right keys, wrong ones, keys in wrong places, and defects behind each."""
    answers: list[httpx.Response] = []
    with caplog.at_level(logging.DEBUG):
        async with listening(house.app(), access_log=False) as url, httpx.AsyncClient(base_url=url) as client:
            every = house.key("infer", "ingest", "admin")
            text = every["authorization"].removeprefix("Bearer ")
            house.made.append(mint())
            wrong = house.bearer(house.made[-1])
            for method, path, body, _ in PATHS:
                for headers in (every, wrong, {"authorization": text}):
                    answers.append(await client.request(method, path, json=body, headers=headers))
                    answers.append(await client.request(method, f"{path}?key={text}", json=body, headers=headers))
                    answers.append(await client.request(method, f"{path}/{text}", json=body, headers=headers))
            for body in ({"model": text, "prompt": "x"}, {"model": "cats", "prompt": "x", "request_id": text + " "}):
                answers.append(await client.post("/v1/completions", json=body, headers=every))
            answers.append(await client.post("/v1/keys", json={"name": "a", "scopes": [text]}, headers=every))

            async def broken(*_: object) -> Any:
                raise ValueError("a defect")

            monkeypatch.setattr(house.notebook, "remove", broken)
            for domain in ("cats", f"x{text}y"):
                answers.append(await client.delete(f"/v1/domains/{domain}", headers=every))
            made = await client.post("/v1/keys", json={"name": "b", "scopes": ["infer"]}, headers=every)
            house.made.append(made.json()["api_key"])
    assert {200, 201, 202, 401, 404, 500} <= {answer.status_code for answer in answers}
    secrets = [made.split("-")[2] for made in house.made]
    # httpx tells of what it asks for.
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    said = "\n".join(record.getMessage() for record in ours) + "\n".join(answer.text for answer in answers)
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"DELETE /v1/domains/cats" in content for content in written)
    for secret in secrets:
        assert secret not in said and not any(secret.encode() in content for content in written)

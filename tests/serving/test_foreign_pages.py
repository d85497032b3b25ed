"""Without keys, a page of another origin changes nothing, however its browser tells of it; nobody else is hindered."""

from __future__ import annotations

import httpx
import pytest

from tests.serving.conftest import Notebook
from tests.serving.doors import House

ROLLBACK = "/v1/domains/cats/rollback"
EVIL = "https://evil.example.org"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://replica"}, 200),
        ({"origin": "HTTP://Replica"}, 200),
        ({"origin": "https://replica"}, 200),
        ({"origin": EVIL, "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "null", "sec-fetch-site": "none"}, 200),
        ({"origin": EVIL}, 403),
        ({"origin": "http://replica", "sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://replica", "sec-fetch-site": "same-site"}, 403),
        ({"origin": "http://replica:81"}, 403),
        ({"origin": "http://evil@replica"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "http://[replica"}, 403),
    ],
)
async def test_a_command_is_for_pages_of_its_own_origin(
    client: httpx.AsyncClient, notebook: Notebook, headers: dict[str, str], status: int
) -> None:
    answer = await client.post(ROLLBACK, headers=headers)
    assert answer.status_code == status
    assert bool(notebook.calls) == (status == 200)
    if status == 403:
        error = answer.json()["error"]
        assert error["type"] == "PermissionDeniedError" and "serving.access.origins" in error["message"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/records", "/v1/dead-letters/replay"])
async def test_whatever_is_no_reading_is_refused(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.post(path, content=b"{}", headers={"origin": EVIL})).status_code == 403
    assert (await client.delete("/v1/domains/cats", headers={"origin": EVIL})).status_code == 403
    assert (await client.get("/v1/status", headers={"origin": EVIL})).status_code == 200, (
        "the browser keeps it to itself"
    )


@pytest.mark.parametrize("origins", [(EVIL,), ("*",)])
async def test_listed_origins_may(house: House, origins: tuple[str, ...]) -> None:
    async with house.client(house.app(required=False, origins=origins)) as asking:
        assert (await asking.post(ROLLBACK, headers={"origin": EVIL})).status_code == 200


async def test_with_keys_the_key_decides(house: House) -> None:
    async with house.client(house.app()) as asking:
        assert (await asking.post(ROLLBACK, headers={"origin": EVIL})).status_code == 401
        assert (await asking.post(ROLLBACK, headers={"origin": EVIL, **house.key("admin")})).status_code == 200

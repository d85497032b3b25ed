"""The page's files: packed, lasting, known again, open to everybody, and no reason to fail where they are missing."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from serving.page import FOLDER, page_router
from tests.serving.doors import House


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<title>hello</title>")
    (tmp_path / "assets" / "a-1234.js").write_text("1" * 5000)
    return tmp_path


def client(folder: Path) -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(page_router(folder))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://replica")


async def test_files_are_packed_for_who_takes_them_so(folder: Path) -> None:
    async with client(folder) as asking:
        for headers, packed in (({"accept-encoding": "gzip, br"}, True), ({"accept-encoding": "identity"}, False)):
            async with asking.stream("GET", "/assets/a-1234.js", headers=headers) as answer:
                raw = b"".join([piece async for piece in answer.aiter_raw()])
            assert (gzip.decompress(raw) if packed else raw) == b"1" * 5000
            assert answer.headers["vary"] == "accept-encoding"
            assert ("content-encoding" in answer.headers) == packed
            assert answer.headers["content-type"].startswith("text/javascript")
            assert "immutable" in answer.headers["cache-control"]


async def test_a_file_that_is_known_is_not_sent_again(folder: Path) -> None:
    async with client(folder) as asking:
        tag = (await asking.get("/")).headers["etag"]
        known = await asking.get("/", headers={"if-none-match": tag})
        assert (known.status_code, known.content) == (304, b"")
        assert (await asking.get("/", headers={"if-none-match": '"other"'})).text == "<title>hello</title>"


@pytest.mark.parametrize("name", ["b.js", "..%2findex.html", "%2e%2e%2findex.html", ""])
async def test_what_is_no_file_of_it_is_404(folder: Path, name: str) -> None:
    async with client(folder) as asking:
        assert (await asking.get(f"/assets/{name}")).status_code == 404


async def test_without_a_build_everything_else_works(tmp_path: Path) -> None:
    async with client(tmp_path) as asking:
        answer = await asking.get("/")
        assert answer.status_code == 404 and "build" in answer.text


async def test_the_page_wants_no_key_and_what_it_shows_does(house: House) -> None:
    async with house.client(house.app()) as asking:
        page = await asking.get("/")
        assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
        for name in re.findall(r"/assets/([^\"]+)", page.text):
            assert (await asking.get(f"/assets/{name}")).status_code == 200
        assert (await asking.get("/v1/status")).status_code == 401
        assert (await asking.get("/assets/../v1/status")).status_code in (401, 404)


def test_the_first_view_is_small() -> None:
    """Everything that the page loads before it shows anything, as it is sent."""
    page = (FOLDER / "index.html").read_text()
    first = [FOLDER / "assets" / name for name in re.findall(r"/assets/([^\"]+)", page)]
    assert len(first) >= 2
    assert sum(len(gzip.compress(path.read_bytes())) for path in first) + len(gzip.compress(page.encode())) < 150_000

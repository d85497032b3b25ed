"""What a body may be: strict JSON in UTF-8 whichever way it comes, records of any number, off the loop when large."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import httpx
import pytest

from serving.errors import InvalidRecord, Refused
from serving.record_body import read_records
from serving.request_body import MAX_BYTES, MAX_RECORD_BYTES, MAX_RECORDS_BYTES, SMALL_BYTES, parse
from tests.serving.conftest import Notebook

SURROGATES = [
    b'{"prompt": "x \xed\xa0\xbd\xed\xb8\x80 y"}',
    b'{"prompt": "\xed\xa0\xbd"}',
    b'{"prompt": "\\ud83d"}',
    b'{"prompt": "\\uDE00\\uD83D"}',
    b'{"prompt": "\\ud83d x"}',
    b'{"\\ud800": "x", "prompt": "x"}',
    b'{"\xed\xb8\x80": "x", "prompt": "x"}',
    b'{"prompt": "x", "user": "\\udfff"}',
    b'{"prompt": "x", "logit_bias": {"\\udfff": 1}}',
    b'{"prompt": "\xff"}',
    b'{"prompt": "\xc0\xaf"}',
    b'{"prompt": "\xf4\x90\x80\x80"}',
]
NO_JSON = [
    '{"prompt": "x"}'.encode("utf-16"),
    '{"prompt": "x"}'.encode("utf-16-le"),
    '{"prompt": "x"}'.encode("utf-32"),
    b'{"prompt": "x", "temperature": 1e999}',
    b'{"prompt": "x", "temperature": -Infinity}',
    b'{"prompt": "x", "n": ' + b"1" * 5000 + b"}",
    b'{"prompt": "x", "temperature": ' + b"1" * 400 + b".0}",
    b'{"a":' * 300 + b"1" + b"}" * 300,
    b'{"prompt": "a\nb"}',
    b'{"prompt": "x"} {}',
    b'\xef\xbb\xbf\xef\xbb\xbf{"prompt": "x"}',
]


@pytest.mark.parametrize("content", [*SURROGATES, *NO_JSON])
async def test_what_is_no_json_in_utf_8_is_a_bad_request(client: httpx.AsyncClient, content: bytes) -> None:
    for path in ("chat/completions", "completions", "route", "records", "domains/cats/pin"):
        answer = await client.post(f"/v1/{path}", content=content)
        assert answer.status_code == 400, (path, answer.text)
        assert answer.json()["error"]["type"] == "BadRequestError"


@pytest.mark.parametrize("text", ["\U0001f600", "a\x00\x07\x7fb", "\ufffe\uffff", "zwölf 十二", "\ufeffx"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
async def test_every_text_that_is_unicode_is_taken(client: httpx.AsyncClient, text: str, bom: bytes) -> None:
    for escaped in (True, False):
        content = bom + json.dumps({"prompt": text}, ensure_ascii=escaped).encode()
        answer = await client.post("/v1/completions", content=content)
        assert answer.status_code == 200 and text in answer.json()["choices"][0]["text"]


@pytest.mark.parametrize(
    "path", ["/v1/domains/%ff", "/v1/domains/%ed%a0%bd", "/v1/domains/cats?x=%ff", "/v1/models/%c0"]
)
async def test_a_target_that_is_no_utf_8_is_a_bad_request(client: httpx.AsyncClient, path: str) -> None:
    verb = "GET" if "models" in path else "DELETE"
    answer = await client.request(verb, path)
    assert answer.status_code == 400 and "UTF-8" in answer.json()["error"]["message"]
    assert (await client.get("/v1/models/%c3%a4")).status_code == 404


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("form", ["list", "lines", "spaced"])
def test_records_are_the_same_in_every_form(form: str, bom: bytes, large: bool) -> None:
    text = 'a \\ "[{,}]" \U0001f600 ' + "x" * (SMALL_BYTES // 100 if large else 1)
    records: list[dict[str, Any]] = [{"id": str(index), "meta": {"a": [[{}]]}, "prompt": text} for index in range(200)]
    content = {
        "list": json.dumps(records, separators=(",", ":")).encode(),
        "lines": b"\r\n".join(bom + json.dumps(record, ensure_ascii=False).encode() for record in records),
        "spaced": b" \n" + json.dumps(records, indent=3).encode() + b"\n\n",
    }[form]
    assert large == (len(content) > SMALL_BYTES)
    assert read_records(bom + content) == records


@pytest.mark.parametrize(
    "end",
    [b"", b",]", b"]]", b"] x", b",1]", b",{]", b",NaN]", b',{"a":1e999}]', b',{"a":"\\ud800"}]', b',{"a":"\xff"}]'],
)
def test_a_large_list_is_read_as_strictly_as_a_small_one(end: bytes) -> None:
    for count in (1, SMALL_BYTES // 8):
        content = b"[" + b",".join([b'{"a": 1}'] * count)
        assert len(read_records(content + b"]")) == count
        with pytest.raises((InvalidRecord, Refused)):
            read_records(content + end)


async def test_records_of_many_mib_leave_the_loop_to_others(client: httpx.AsyncClient, notebook: Notebook) -> None:
    record = {"id": "1", "domain": "cats", "prompt": "p" * 900, "completion": "c", "meta": {"a": list(range(40))}}
    line = json.dumps(record).encode()
    content = b"[" + b",".join([line] * ((6 << 20) // (len(line) + 1))) + b"]"
    loop_thread, reading = threading.get_ident(), set()
    notebook.append_records = remember_nothing  # type: ignore[method-assign]
    turns = 0
    before = parse.__globals__["from_json"]

    def watched(*args: Any, **kwargs: Any) -> Any:
        reading.add(threading.get_ident())
        return before(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(parse.__globals__, "from_json", watched)
        asked = asyncio.create_task(client.post("/v1/records", content=content))
        while not asked.done():
            await asyncio.sleep(0.001)
            turns += 1
    assert (await asked).status_code == 202, (await asked).text
    assert reading and loop_thread not in reading and turns > 20


async def remember_nothing(records: list[dict[str, Any]]) -> list[str]:
    return [str(len(records))]


@pytest.mark.parametrize(
    ("path", "limit"),
    [("completions", MAX_BYTES), ("route", MAX_BYTES), ("domains/cats/pin", MAX_BYTES), ("records", MAX_RECORDS_BYTES)],
)
async def test_a_body_is_bounded_by_its_path(client: httpx.AsyncClient, path: str, limit: int) -> None:
    async def trickle() -> Any:
        for _ in range(limit // (1 << 20) + 1):
            yield b" " * (1 << 20)

    stated = await client.post(f"/v1/{path}", content=b"{}", headers={"content-length": str(limit + 1)})
    trickled = await client.post(f"/v1/{path}", content=trickle())
    for answer in (stated, trickled):
        assert answer.status_code == 413
        assert f"at most {limit} bytes" in answer.json()["error"]["message"]
    assert f"got {limit + 1}" in stated.json()["error"]["message"]


def test_a_repeated_key_counts_once_and_the_last_one_wins() -> None:
    assert parse(b'{"a": 1, "a": 2}') == {"a": 2}


def test_a_large_list_is_split_in_linear_time() -> None:
    """Counted in calls, for time means little: one reading for each record."""
    calls = 0
    before = parse.__globals__["from_json"]

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return before(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(parse.__globals__, "from_json", counted)
        assert len(read_records(b"[" + b",".join([b'{"a": [{"b": 1}, {}]}'] * 5000) + b"]")) == 5000
    assert calls == 5000


@pytest.mark.parametrize("form", ["alone", "listed", "line"])
async def test_a_record_that_would_keep_the_process_to_itself_is_not_read(
    client: httpx.AsyncClient, notebook: Notebook, form: str
) -> None:
    """A parser returns when it has read a whole value; the others wait until then."""
    good = b'{"id": "1", "completion": "c"}'
    large = b'{"id": "2", "meta": [' + b",".join([b"{}"] * (MAX_RECORD_BYTES // 3)) + b"]}"
    content, where = {
        "alone": (large, "line 1"),
        "listed": (b"[" + good + b"," + large + b"," + good + b"]", "record 2"),
        "line": (good + b"\n" + large, "line 2"),
    }[form]
    answer = await client.post("/v1/records", content=content)
    assert answer.status_code == 413 and answer.json()["error"]["message"].startswith(f"{where}: ")
    assert notebook.records == []


def test_a_large_body_that_is_broken_is_not_read_a_second_time() -> None:
    longest = 0
    before = parse.__globals__["from_json"]

    def watched(content: bytes, **kwargs: Any) -> Any:
        nonlocal longest
        longest = max(longest, len(content))
        return before(content, **kwargs)

    record = b'{"id": "1", "prompt": "' + b"x" * 30_000 + b'"}'
    many = b",".join([record] * 150)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(parse.__globals__, "from_json", watched)
        for broken in (b"[" + many, b"[" + many + b"}", b"[" + many + b',{"id": ]', record + b"\n" + many + b"\n{"):
            with pytest.raises((InvalidRecord, Refused)):
                read_records(broken)
        assert len(read_records(b"\n".join([record] * 150))) == 150
    assert longest <= len(many) // 100


@pytest.mark.parametrize("text", [b"1" * 299 + b"a", b"1", b"1e99 ", b"a"])
def test_looking_for_large_numbers_takes_steps_and_linear_time(text: bytes) -> None:
    """One search never sees more than a small piece, and where it stands in a run of digits it goes no further."""
    content, seen = text * (SMALL_BYTES * 4 // len(text)), []

    class Watched:
        def search(self, content: bytes, start: int, end: int) -> None:
            seen.append((start, end))

    pattern = parse.__globals__["_BEYOND"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(parse.__globals__, "_BEYOND", Watched())
        parse(b'["' + content + b'"]')
    assert max(end - start for start, end in seen) < 2 * SMALL_BYTES and seen[-1][1] > len(content)
    assert pattern.search(b"x" + b"1" * 400, 50) is None


@pytest.mark.parametrize("at", range(SMALL_BYTES - 302, SMALL_BYTES + 2, 38))
def test_a_number_beyond_a_float_is_found_wherever_it_stands(at: int) -> None:
    for number in (b"1" * 310 + b".0", b"1e999"):
        with pytest.raises(Refused):
            parse(b"[" + b" " * (at - 1) + number + b"]")

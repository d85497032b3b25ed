"""Whatever a front door answers: one line and exit code 2, or what it says, whole; never a traceback."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.console.answers import FrontDoor, front_door

COMMANDS = [
    ["status"],
    ["status", "--json"],
    ["domains", "list"],
    ["domains", "show", "cats"],
    ["domains", "remove", "cats"],
    ["domains", "pin", "cats", "--off"],
    ["route", "hello", "--json"],
]
DOMAIN = {
    "domain": "cats",
    "state": "failed",
    "detail": "partition t[abc] [/v1/x] :cat: can't be read",
    "version": "cats@v12-0a1b2c3d",
    "examples": 3,
    "router_rows": 2,
    "waiting": {},
}
STATUS = {"manifest": 3, "base": {"model": "m"}, "domains": [DOMAIN], "ingest": [], "replicas": {}}
ERROR = {"error": {"message": "the coordinator\nis away", "type": "x", "code": 503}}


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b"<html>welcome</html>", "no JSON"),
        (200, b"\xff\xfe\x00", "no JSON"),
        (200, b"[]", "answer that this client knows"),
        (200, b"null", "answer that this client knows"),
        (200, b"{}", "answer that this client knows"),
        (200, json.dumps(dict.fromkeys(["manifest", "base", "domains", "decisions", "domain"])).encode(), "knows"),
        (200, b'{"manifest": 1, "domains": 3, "decisions": [], "base": {}}', "knows"),
        (200, b"[" * 5_000, "no JSON"),
        (302, b"", "status 302"),
        (502, b"<html>\n<h1>Bad Gateway</h1>\n</html>", "status 502: Bad Gateway"),
        (503, json.dumps(ERROR).encode(), "status 503: the coordinator is away"),
        (500, b'{"error": "words alone"}', "words alone"),
        (500, b'{"error": null}', "status 500: Internal Server Error"),
        (500, b'{"error": {"message": null}}', "no reason given"),
        (500, b'{"error": ["x"]}', "status 500"),
        (400, b'{"error": {"message": "\\u001b[31mred\\u001b[0m"}}', "status 400: red"),
    ],
)
def test_an_answer_that_is_none_is_one_line(status: int, body: bytes, told: str) -> None:
    with front_door(FrontDoor(status, body, headers={"retry-after": "1", "location": "/elsewhere"})) as door:
        assert told in door.refused("status")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_says_so(command: list[str]) -> None:
    with front_door(FrontDoor()) as door:
        for door.status, door.body, told in ((200, b'{"decisions": []}', "knows"), (502, b"<p>", "Bad Gateway")):
            assert told in door.refused(*command)


def test_a_newer_service_says_more_than_is_known() -> None:
    body = {**STATUS, "more": {"a": 1}, "domains": [{**DOMAIN, "more": None}]}
    with front_door(FrontDoor(body=json.dumps(body).encode())) as door:
        assert door.run("status").exit_code == 0
        assert json.loads(door.run("domains", "show", "cats", "--json").stdout)["version"] == DOMAIN["version"]
        assert "'dogs' is not known" in door.refused("domains", "show", "dogs")


def test_words_are_printed_as_they_are_and_whole() -> None:
    """Brackets are no markup and colons no pictures; what is no screen has no width."""
    with front_door(FrontDoor(body=json.dumps(STATUS).encode())) as door:
        done = door.run("status")
    assert done.exit_code == 0, done.exception
    assert f"trouble: cats: {DOMAIN['detail']}" in done.stderr
    row = next(line for line in done.stdout.splitlines() if "cats@" in line)
    assert DOMAIN["version"] in row and DOMAIN["detail"] in row


def test_what_was_lost_and_never_read_and_who_lags_is_printed() -> None:
    """Both as JSON, and in words where a person looks."""
    gap = {"partition": "t[2]", "first": 7, "last": 9, "rows": 2}
    replicas = {"slow": {"manifest": 1, "fenced": None, "lag_seconds": 41.6}, "quick": {"manifest": 3, "fenced": None}}
    status = {
        **STATUS,
        "domains": [{**DOMAIN, "lost": [gap]}],
        "unread": [{**gap, "partition": "t[0]", "rows": 0}],
        "replicas": replicas,
    }
    with front_door(FrontDoor(body=json.dumps(status).encode())) as door:
        shown, done = door.run("domains", "show", "cats", "--json"), door.run("status")
    assert json.loads(shown.stdout)["lost"] == [gap]
    assert shown.stderr == "lost: 2 examples in t[2], offsets 7 to 9; send them again under the same ids\n"
    assert "slow: serves manifest 1, for 42 s" in done.stdout and "quick: serves" not in done.stdout
    assert "t[2], offsets 7 to 9" in done.stderr and "stream t[0]: offsets 7 to 9" in done.stderr


def test_what_is_being_recovered_is_one_sentence() -> None:
    actors = [
        {"name": "router", "state": "up"},
        {"name": "learner-1", "state": "lost", "progress_seconds": 12.2, "restarts": 1},
        {"name": "ingest-0", "state": "starting", "trouble": "no broker at [b:1]"},
    ]
    for told, sentence in (
        (actors, "being recovered: learner-1 (lost 12 s ago, being started again), "
                 "ingest-0 (being started: no broker at [b:1])\n"),
        (actors[:1], None),
    ):  # fmt: skip
        with front_door(FrontDoor(body=json.dumps({**STATUS, "actors": told}).encode())) as door:
            done = door.run("status")
        assert done.exit_code == 0, done.exception
        assert sentence in done.stderr if sentence else "being recovered" not in done.stderr


@pytest.mark.parametrize("name", ["a#b", "a?b", "a/b", "a b", "ä", "%2e", "../pin"])
def test_a_domain_of_any_name_is_the_one_asked_for(name: str) -> None:
    body = {"domain": "x", "manifest": 1, "reason": "because [of] it"}
    with front_door(FrontDoor(body=json.dumps(body).encode())) as door:
        assert door.run("domains", "remove", name).stdout == "manifest 1: because [of] it\n"
    (asked,) = door.asked
    assert asked.startswith("DELETE /v1/domains/") and asked.count("/") == 3 and not set(asked) & set("#?")


@pytest.mark.parametrize("command", [["route", "\udcff"], ["chat", "--model", "\udcff"]])
def test_a_text_that_is_no_utf_8(command: list[str]) -> None:
    with front_door(FrontDoor()) as door:
        assert "UTF-8" in door.refused(*command, typed="hi\n")


@pytest.mark.parametrize("url", ["http://[::1", "http://h:99999", "", "nothing", "ftp://h"])
def test_a_url_that_is_none(url: str) -> None:
    assert url in FrontDoor(url=url).refused("status")


def told(*events: Any) -> bytes:
    return b"".join(b"data: " + (e if isinstance(e, bytes) else json.dumps(e).encode()) + b"\n\n" for e in events)


HI = {"choices": [{"delta": {"content": "hi"}}]}
QUIET = [{"choices": []}, {"choices": [{"delta": {"content": None}}]}, {"choices": [{"delta": {}}]}]


@pytest.mark.parametrize(
    ("events", "why"),
    [
        (told(HI, {"error": {"message": "the engine\nhas died"}}, b"[DONE]"), "the engine has died"),
        (told(HI, {"error": {"message": "out"}, "choices": []}), "out"),
        (told(HI), "broke off"),
        (told(HI, b"{"), "no choices"),
        (told(HI, {}), "no choices"),
        (told(HI, []), "no choices"),
        (told(HI, {"choices": None}), "no choices"),
        (told(HI, {"choices": ["x"]}), "no choices"),
    ],
)
def test_a_chat_that_breaks_off_ends_with_one_line(events: bytes, why: str) -> None:
    with front_door(FrontDoor(body=events, kind="text/event-stream")) as door:
        assert why in door.refused("chat", typed="hello\n")
        assert door.run("chat", typed="hello\n").stdout == "> hi\n"


def test_a_connection_that_breaks_in_the_middle_of_a_chat() -> None:
    with front_door(FrontDoor(body=told(HI), kind="text/event-stream", length=1_000)) as door:
        assert "no answer" in door.refused("chat", typed="hello\n")


def test_a_chat_to_its_end() -> None:
    stream = told(HI, *QUIET, {"choices": [{"delta": {"content": "!"}}], "error": None}, b"[DONE]")
    door = FrontDoor(body=b": a comment\n\n" + stream, headers={"x-anabranch-adapter": "cats@v1"})
    with front_door(door):
        assert door.run("chat", typed="hello\n\n").stdout == "> hi!   [cats@v1]\n> "
        assert door.run("chat", typed="hello\n").exit_code == 0
        door.headers |= {"x-anabranch-adapter": "base", "x-anabranch-abstained": "low-confidence"}
        assert "[base, low-confidence]" in door.run("chat", typed="hello\n\n").stdout


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85"])
def test_a_chat_may_hold_what_unicode_calls_the_end_of_a_line(separator: str) -> None:
    event = json.dumps({"choices": [{"delta": {"content": f"a{separator}b"}}]}, ensure_ascii=False).encode()
    with front_door(FrontDoor(body=told(event, b"[DONE]").replace(b"\n", b"\r\n"))) as door:
        assert f"> a{separator}b" in door.run("chat", typed="hello\n").stdout
        door.body = door.body.rstrip()
        assert door.run("chat", typed="hello\n").exit_code == 0

"""Feeding at the command line: the options, the summary, and what is said where it ends early."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from console import feed as command
from console.cli import app
from streaming.location import StreamLocation, ensure_topic, open_source
from streaming.source import from_beginning
from tests.console.answers import FrontDoor, front_door

ANSWER = json.dumps({"ids": ["a"]}).encode()
CSV = "frage,antwort,thema\n" + "".join(f"q{n},a{n},{'eins' if n % 2 else 'zwei'}\n" for n in range(10))


@pytest.fixture
def location(tmp_path: Path) -> StreamLocation:
    found = StreamLocation.parse(f"embedded:{tmp_path}/stream.sqlite")
    ensure_topic(found, 1)
    return found


def feed(location: StreamLocation, *arguments: object) -> Result:
    words = ["feed", *map(str, arguments), "--stream", f"embedded:{location.path}"]
    return CliRunner().invoke(app, words)


def on_it(location: StreamLocation) -> int:
    source = open_source(location, group=None, start_at=from_beginning)
    try:
        return len(source.poll(0.2, 5000))
    finally:
        source.close()


def test_columns_by_options(tmp_path: Path, location: StreamLocation) -> None:
    (tmp_path / "f.csv").write_text(CSV)
    columns = ["--input-column", "frage", "--output-column", "antwort", "--domain-column", "thema"]
    done = feed(location, tmp_path / "f.csv", *columns)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == ["zwei: 5 records, closed", "eins: 5 records, closed"]
    assert done.stderr == ""
    assert on_it(location) == 12


def test_nothing_is_sent_of_a_file_with_a_bad_row(tmp_path: Path, location: StreamLocation) -> None:
    (tmp_path / "f.csv").write_text("input,output,task\n" + "q,a,d\n" * 900 + "q,,d\n")
    done = feed(location, tmp_path / "f.csv")
    assert done.exit_code == 2
    assert "f.csv:902: " in done.stderr and "completion" in done.stderr and len(done.stderr.splitlines()) == 1
    assert on_it(location) == 0


def test_of_a_large_file_it_is_said_how_many_were_sent(
    tmp_path: Path, location: StreamLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "CHEAP_BYTES", 10)
    (tmp_path / "f.csv").write_text("input,output,task\n" + "".join(f"q{n},a,d\n" for n in range(900)) + "q,,d\n")
    done = feed(location, tmp_path / "f.csv")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[0] == "500 records were sent before; sent again, those count once"
    assert on_it(location) == 500


def test_bad_rows_are_told_by_reason(tmp_path: Path, location: StreamLocation) -> None:
    (tmp_path / "f.csv").write_text("input,output,task\nq,a,d\nq,,d\nr,,d\nq,a,D!\n")
    done = feed(location, tmp_path / "f.csv", "--skip-bad", "--no-close")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == ["d: 1 records"]
    refused, first = done.stderr.splitlines()
    assert refused == "refused 3 rows: empty-completion 2, bad-domain 1" and first.startswith("the first: ")
    assert "f.csv:3: " in first


def test_a_file_of_bad_rows_alone_fails(tmp_path: Path, location: StreamLocation) -> None:
    (tmp_path / "f.csv").write_text("input,output\nq,a\n")
    done = feed(location, tmp_path / "f.csv", "--skip-bad")
    assert done.exit_code == 2 and "no row of it could be used" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--domain", "No Slug"], "--domain: expected a slug"),
        (["--domain", "base"], "--domain: expected a slug"),
        (["--domain", "a", "--domain-column", "b"], "expected one of them, got both"),
        (["--input-column", "x"], "no column 'x', got frage, antwort, thema"),
        ([], "got frage, antwort, thema"),
    ],
)
def test_bad_options(tmp_path: Path, location: StreamLocation, options: list[str], said: str) -> None:
    (tmp_path / "f.csv").write_text(CSV)
    done = feed(location, tmp_path / "f.csv", *options)
    assert done.exit_code == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


def test_by_http(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("input,output,task\n" + "".join(f"q{n},a,d\n" for n in range(1100)))
    with front_door(FrontDoor(body=ANSWER)) as door:
        done = door.run("feed", str(tmp_path / "f.csv"))
    assert done.exit_code == 0, done.output
    assert door.asked == ["POST /v1/records"] * 4


def test_a_door_that_finds_it_too_large(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("input,output,task\nq,a,d\nr,a,d\n")
    with front_door(FrontDoor(status=413, body=b'{"error": {"message": "too large"}}')) as door:
        line = door.refused("feed", str(tmp_path / "f.csv"))
        assert "413" in line
        done = door.run("feed", str(tmp_path / "f.csv"), "--skip-bad")
    assert done.exit_code == 2 and "too-large 2" in done.stderr

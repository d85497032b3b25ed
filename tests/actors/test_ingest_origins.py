"""What the spool was filled from: one rendering by one template, one log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from actors.errors import OtherHome
from streaming.errors import StreamError
from streaming.records import EndOfDomain
from tests.actors.file_stream import FileStream
from tests.actors.house import House, records_of, training

Build = Callable[..., House]


def rows_of(house: House, worker: int = 0) -> list[tuple[str, str, int]]:
    spool = house.ingests[worker]._spool
    rows = [row for pack in spool._packs.all() for row in pack]
    return sorted([(row.domain, row.record_id, int(row.held_out)) for row in rows], key=lambda row: row[1])


# -- one rendering ----------------------------------------------------------------------------------------------------


class Rendering:
    """The template, counting; what it renders from now on may differ."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.rendered, self.suffix = inner, 0, ""

    def render(self, messages: Any) -> str:
        self.rendered += 1
        return str(self._inner.render(messages)) + self.suffix

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def test_a_prompt_is_rendered_once_on_its_way(build: Build) -> None:
    house = build()
    records = records_of("alpha", 24)
    template = Rendering(house.parts.template)
    house.ingests[0]._decoding._template = template  # type: ignore[assignment]
    house.send([*records, EndOfDomain(domain="alpha")])
    house.poll()
    while house.poll():
        pass
    assert template.rendered == 24
    # What was checked is what is featured and trained, whatever the template would make of it now.
    template.suffix = " and more"
    seen: list[str] = []
    learner = house.trainer.worker._learner

    class Looking:
        name = "looking"

        def train(self, job: Any, on_progress: Any = None) -> Any:
            seen.extend(example.prompt for example in (*job.train, *job.held_out))
            return learner.train(job, on_progress)

    house.employ(Looking())
    house.learn("alpha")
    assert template.rendered == 24
    assert sorted(seen) == sorted(house.parts.template.render(r.messages_or_prompt()) for r in records)
    house.check_exact(training(records))


class OtherTemplate(Rendering):
    digest = "another"


def test_another_template_is_refused_while_rows_of_the_old_one_wait(build: Build) -> None:
    house = build()
    records = records_of("alpha", 24)
    house.send(records[:16])
    house.drain()
    house.restart_ingest()
    ingest = house.ingests[0]
    template, ingest._template = ingest._template, OtherTemplate(ingest._template)  # type: ignore[assignment]
    house.send(records[16:])
    for act in (ingest.poll_once, ingest.observe_once, lambda: ingest.examples("alpha", house.router.observed())):
        with pytest.raises(OtherHome, match="another prompt template"):
            act()
    assert len(rows_of(house)) == 16
    ingest._template = template
    house.drain()
    house.check_exact(training(records))


# -- the log's identity -----------------------------------------------------------------------------------------------


def test_another_log_under_the_same_name_is_refused(build: Build) -> None:
    """Ten records were read; thirty others in a new log must not be taken for the old ones' continuation."""
    house = build(partitions=1)
    house.send(records_of("alpha", 10))
    house.drain()
    house._close(house.ingests[0])
    house.stream.close()
    for file in house.home.glob("stream.sqlite*"):
        file.unlink()
    house.stream = FileStream(house.home / "stream.sqlite", 1)
    house.send(records_of("beta", 30))
    house.ingests[0] = house._ingest(0)
    for _ in range(2):
        with pytest.raises(StreamError, match="another log than before"):
            house.ingests[0].poll_once()
    assert {domain for domain, *_ in rows_of(house)} == {"alpha"}
    assert house.router.examples() == {"alpha": 10}


def test_the_same_log_is_read_on(build: Build) -> None:
    house = build(partitions=1)
    house.send(records_of("alpha", 10))
    house.drain()
    house.restart_ingest()
    house.send(records_of("alpha", 10, start=10))
    house.drain()
    house.check_exact(training(records_of("alpha", 20)))

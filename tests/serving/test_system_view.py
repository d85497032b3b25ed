"""What asks the coordinator is answered in time, whether that hangs, fails or says odd things."""

import asyncio
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from registry.manifest import BaseRevision
from serving import system_view
from serving.api import DomainStatus, ReplicaStatus, SystemStatus, Waiting
from serving.errors import ControlUnavailable
from serving.service import RoutedService
from serving.system_metrics import render_metrics
from serving.system_view import Within
from tests.serving.conftest import Notebook


class Hanging(Notebook):
    """A control port behind which nobody answers until `back` is set; counts what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.back = asyncio.Event()
        self.asked = 0

    async def status(self) -> SystemStatus:
        self.asked += 1
        await self.back.wait()
        return await super().status()

    async def domains(self) -> tuple[DomainStatus, ...]:
        await self.back.wait()
        return await super().domains()


async def test_a_coordinator_that_hangs_keeps_nobody_waiting(
    service: RoutedService, client_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert system_view.PATIENCE_S < 10
    monkeypatch.setattr(Within.__init__, "__defaults__", (0.02,))
    control = Hanging()
    client = client_of(service, control)
    for _ in range(3):
        scraped = await asyncio.wait_for(client.get("/metrics"), 30)
        assert scraped.status_code == 200 and "anabranch_control_up 0" in scraped.text
        for path in ("/v1/status", "/v1/domains"):
            answer = await asyncio.wait_for(client.get(path), 30)
            assert answer.status_code == 503 and answer.headers["retry-after"]
            assert "coordinator" in answer.json()["error"]["message"]
    assert control.asked == 1  # It hangs on one question, not on one more with each scrape.
    control.back.set()
    await asyncio.sleep(0)
    while (await client.get("/v1/status")).status_code != 200:
        await asyncio.sleep(0.01)
    assert "anabranch_control_up 1" in (await client.get("/metrics")).text
    assert control.asked > 1


async def test_an_overdue_question_that_fails_is_asked_anew() -> None:
    gate, asked = asyncio.Event(), 0

    async def ask() -> int:
        nonlocal asked
        asked += 1
        if asked == 1:
            await gate.wait()
            raise KeyError("lost")
        return asked

    within = Within(ask, 0.01)
    with pytest.raises(ControlUnavailable):
        await within()
    gate.set()
    await asyncio.sleep(0.01)
    assert await within() == 2


TRACEBACK = 'Traceback (most recent call last):\n  File "/srv/a/b.py", line 3, in f\nKeyError: 10.1.2.3:6379 pid=77'


@pytest.mark.parametrize("error", [KeyError(TRACEBACK), OSError(5, TRACEBACK, "/srv/a"), ControlUnavailable(TRACEBACK)])
async def test_a_scrape_outlives_whatever_the_system_fails_with(
    service: RoutedService, client_of: Any, error: Exception
) -> None:
    class Failing:
        async def status(self, *_: Any) -> Any:
            raise error

        domains = remove = pin = unpin = learn = rollback = append_records = status

    client: httpx.AsyncClient = client_of(service, Failing())
    scraped = await client.get("/metrics")
    assert scraped.status_code == 200 and "anabranch_control_up 0" in scraped.text
    answers = [
        scraped,
        await client.get("/v1/status"),
        await client.get("/v1/domains"),
        await client.delete("/v1/domains/cats"),
        *[await client.post(f"/v1/domains/cats/{verb}") for verb in ("pin", "unpin", "learn", "rollback")],
        await client.post("/v1/records", json={"id": "1"}),
    ]
    for answer in answers:
        assert not [inside for inside in ("Traceback", "/srv", "10.1.2.3", "pid=77") if inside in answer.text]


@pytest.mark.parametrize("name", ['a"b', "a\nb", "a\\b", "a\\", 'a"} 1\nb{c="', "a,b=c", "ä 十", "", "a\rb", "a\x00"])
def test_a_label_of_any_text_is_read_back(name: str) -> None:
    status = SystemStatus(
        manifest=1,
        base=BaseRevision(model="test"),
        domains=(
            DomainStatus(
                domain=name, state="failed", detail=name, version=None, examples=1, router_rows=1, waiting=Waiting()
            ),
        ),
        ingest=(),
        replicas={name: ReplicaStatus(manifest=1, fenced="x")},
    )
    families = {family.name: family for family in text_string_to_metric_families(render_metrics(status))}
    assert families["anabranch_domain_examples"].samples[0].labels == {"domain": name}
    assert families["anabranch_replica_manifest_number"].samples[0].labels == {"replica": name}
    assert families["anabranch_trouble"].samples[0].labels == {"where": name}

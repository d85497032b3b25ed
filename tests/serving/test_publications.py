"""What was published is told from the manifests that are kept, whatever is damaged; an exam as it was kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry.adapters import Adapter
from registry.registry import Registry
from serving.frontdoor import build_app
from serving.publications import publications
from serving.service import RoutedService
from tests.serving.conftest import Notebook
from tests.serving.doors import House
from tests.serving.publisher import Publisher

EXAM = [{"id": str(n), "prompt": f"question {n}\n", "completion": f"answer {n}"} for n in range(30)]


def judged(publisher: Publisher, domain: str, version: int, exact: float, *, rows: int = 10) -> Adapter:
    lines = "".join(json.dumps(each) + "\n" for each in EXAM).encode()
    figures = {"candidate_exact_match": exact, "seconds": 12.5}
    return publisher.adapter(domain, version, figures=figures, held_out=rows, exam=lines)


async def told(client: httpx.AsyncClient, query: str = "") -> list[dict[str, Any]]:
    answer = await client.get(f"/v1/publications{query}")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["publications"])


async def test_each_change_is_told_by_what_it_did(
    registry: Registry, publisher: Publisher, client: httpx.AsyncClient
) -> None:
    assert await told(client) == []
    cats, better, dogs = (judged(publisher, *each) for each in (("cats", 1, 0.5), ("cats", 2, 0.75), ("dogs", 1, 1.0)))
    for adapters in ([cats], [cats, dogs], [better, dogs], [cats, dogs], [dogs]):
        publisher.publish(adapters)
    found = await told(client)
    assert [each["manifest"] for each in found] == [5, 4, 3, 2, 1]
    changes = [[(c["domain"], c["kind"], c["before"], c["after"]) for c in each["changes"]] for each in found]
    assert changes == [
        [("cats", "removed", cats.name, None)],
        [("cats", "rolled back", better.name, cats.name)],
        [("cats", "updated", cats.name, better.name)],
        [("dogs", "added", None, dogs.name)],
        [("cats", "added", None, cats.name)],
    ]
    assert [each["exact"] for each in found] == [
        {"dogs": 1.0},
        {"cats": 0.5, "dogs": 1.0},
        {"cats": 0.75, "dogs": 1.0},
        {"cats": 0.5, "dogs": 1.0},
        {"cats": 0.5},
    ]
    added = found[3]["changes"][0]
    assert added["training_seconds"] == 12.5 and 0 <= added["publication_seconds"] < 60
    times = [[(c["training_seconds"] is None, c["publication_seconds"] is None) for c in p["changes"]] for p in found]
    assert times[:2] == [[(True, True)], [(True, True)]], "what goes, or comes back, was not trained just now"
    assert times[2:] == [[(False, False)]] * 3
    assert [each["manifest"] for each in await told(client, "?limit=2")] == [5, 4]
    assert (await client.get("/v1/publications?limit=1001")).status_code == 400


async def test_segments_count_by_their_exams(
    registry: Registry, publisher: Publisher, client: httpx.AsyncClient
) -> None:
    publisher.publish([judged(publisher, "cats", 1, 1.0, rows=30), judged(publisher, "cats", 2, 0.0, rows=10)])
    assert (await told(client))[0]["exact"] == {"cats": 0.75}


async def test_a_damaged_manifest_hides_no_other(
    registry: Registry, publisher: Publisher, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    cats, dogs = judged(publisher, "cats", 1, 0.5), judged(publisher, "dogs", 1, 1.0)
    for adapters in ([cats], [dogs], [cats, dogs]):
        publisher.publish(adapters)
    (second,) = [path for number, path in registry.history._layout.manifests() if number == 2]
    Path(str(second)).write_bytes(b"{")
    found = publications(registry)
    assert (found.damaged, [each.manifest for each in found.publications]) == ((2,), [3, 1])
    assert found.publications[0].changes == (), "what it changed, the damaged one alone could tell"
    assert [each.kind for each in found.publications[1].changes] == ["added"]


async def test_what_was_mended_is_told_again(
    registry: Registry, publisher: Publisher, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.publications._KEPT_S", 0.0)
    cats = judged(publisher, "cats", 1, 0.5)
    for adapters in ([cats], [], [cats]):
        publisher.publish(adapters)
    (second,) = [path for number, path in registry.history._layout.manifests() if number == 2]
    whole = Path(str(second)).read_bytes()
    Path(str(second)).write_bytes(b"{")
    assert (await client.get("/v1/publications")).json()["damaged"] == [2]
    Path(str(second)).write_bytes(whole)
    answer = (await client.get("/v1/publications")).json()
    assert (answer["damaged"], [each["manifest"] for each in answer["publications"]]) == ([], [3, 2, 1])


async def test_what_is_newly_in_force_is_seen_at_once(
    registry: Registry, publisher: Publisher, client: httpx.AsyncClient
) -> None:
    cats = judged(publisher, "cats", 1, 0.5)
    for number in range(1, 4):
        publisher.publish([cats] if number % 2 else [])
        assert (await told(client))[0]["manifest"] == number


async def test_an_exam_is_told_of_the_version_in_service_or_of_another(
    registry: Registry, publisher: Publisher, client: httpx.AsyncClient
) -> None:
    old, new = judged(publisher, "cats", 1, 0.5), judged(publisher, "cats", 2, 0.75)
    publisher.publish([new])
    answer = (await client.get("/v1/domains/cats/exam?limit=3")).json()
    assert (answer["version"], answer["rows"], len(answer["examples"])) == (new.name, 30, 3)
    assert answer["examples"][0] == {"prompt": "question 0\n", "completion": "answer 0"}
    assert (await client.get(f"/v1/domains/cats/exam?version={old.name}")).json()["version"] == old.name
    for path in ("dogs/exam", "cats/exam?version=cats@v9-00000000", f"dogs/exam?version={old.name}"):
        assert (await client.get(f"/v1/domains/{path}")).status_code == 404


async def test_an_exam_that_is_not_what_was_kept_is_no_answer(
    registry: Registry, publisher: Publisher, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    cats = judged(publisher, "cats", 1, 0.5)
    publisher.publish([cats])
    (exam,) = tmp_path.rglob("exam.jsonl")
    exam.write_bytes(exam.read_bytes().replace(b"answer 1", b"answer 2"))
    answer = await client.get("/v1/domains/cats/exam")
    assert answer.status_code == 503 and str(tmp_path) not in answer.text


async def test_a_key_for_other_domains_sees_no_exam(house: House, registry: Registry, publisher: Publisher) -> None:
    publisher.publish([judged(publisher, "cats", 1, 0.5)])
    async with house.client(house.app()) as asking:
        assert (await asking.get("/v1/domains/cats/exam", headers=house.key("admin"))).status_code == 200
        for scope, domains, status in (("admin", ("dogs",), 403), ("admin", ("cats",), 200), ("infer", None, 403)):
            answer = await asking.get("/v1/domains/cats/exam", headers=house.key(scope, domains=domains))
            assert answer.status_code == status


@pytest.mark.parametrize("path", ["/v1/publications", "/v1/domains/cats/exam"])
async def test_a_registry_that_is_away_is_503(
    service: RoutedService, notebook: Notebook, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    def away(*_: object) -> None:
        raise OSError("/secret/place: stale handle")

    monkeypatch.setattr(service.registry, "current", away)
    transport = httpx.ASGITransport(app=build_app(service, notebook), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
        answer = await client.get(path)
    assert answer.status_code == 503 and "secret" not in answer.text

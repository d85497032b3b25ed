"""Two-phase publication on one replica: all of a manifest or none, nothing in use unloaded, nothing left behind."""

import asyncio
from pathlib import Path

import pytest

from registry.adapters import Adapter, Parity
from registry.errors import UnknownAdapter
from registry.manifest import BaseRevision
from registry.registry import Registry
from serving.engine import LoadedAdapter
from serving.errors import EngineFailed, NotPrepared, PrepareFailed
from serving.publication import Publication
from serving.served import NOTHING_PUBLISHED
from tests.serving.conftest import KNOBS
from tests.serving.memory_engine import MemoryEngine
from tests.serving.publisher import BASE, Publisher, WordFeatures, claimed, word_router

WORDS = {"cats": "meow", "dogs": "woof"}


@pytest.fixture
def publication(engine: MemoryEngine, registry: Registry) -> Publication:
    return Publication(engine, registry, lambda _: WordFeatures(list(WORDS.values())), KNOBS, BASE)


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.reading._PAUSES", (0.01, 0.02, 0.03))
    monkeypatch.setattr("serving.publication._PROBE_PATIENCE", 0.05)


async def stand(publication: Publication, number: int) -> None:
    await publication.prepare(number)
    await publication.commit(number)
    await publication.settle()


async def test_prepare_changes_nothing_that_is_served_and_commit_swaps_all_of_it(
    publication: Publication, publisher: Publisher, engine: MemoryEngine
) -> None:
    cats, dogs = publisher.adapter("cats", 1), publisher.adapter("dogs", 1)
    publisher.publish([cats, dogs], word_router(WORDS))
    await publication.prepare(1)
    assert publication.current is NOTHING_PUBLISHED
    assert set(engine.present) == {cats.name, dogs.name}
    await publication.commit(1)
    assert publication.current.number == 1
    assert {name: domain.newest.name for name, domain in publication.current.by_domain.items()} == {
        "cats": cats.name,
        "dogs": dogs.name,
    }
    assert publication.current.scorer is not None


async def test_prepare_and_commit_are_idempotent(
    publication: Publication, publisher: Publisher, engine: MemoryEngine
) -> None:
    publisher.publish([publisher.adapter("cats", 1)])
    await asyncio.gather(publication.prepare(1), publication.prepare(1))
    await publication.commit(1)
    await publication.commit(1)
    await publication.prepare(1)
    assert [step for step, _ in engine.log] == ["load"]


async def test_a_commit_that_was_not_prepared_is_refused(publication: Publication) -> None:
    with pytest.raises(NotPrepared, match="manifest 3 is not prepared"):
        await publication.commit(3)


async def test_what_stays_is_not_loaded_again_and_what_goes_is_unloaded(
    publication: Publication, publisher: Publisher, engine: MemoryEngine
) -> None:
    cats, dogs, cats2 = publisher.adapter("cats", 1), publisher.adapter("dogs", 1), publisher.adapter("cats", 2)
    publisher.publish([cats, dogs])
    publisher.publish([cats2, dogs])
    await stand(publication, 1)
    await stand(publication, 2)
    assert engine.log == [("load", cats.name), ("load", dogs.name), ("load", cats2.name), ("unload", cats.name)]


async def test_an_older_version_comes_back_under_a_new_engine_id(
    publication: Publication, publisher: Publisher, engine: MemoryEngine
) -> None:
    cats, cats2 = publisher.adapter("cats", 1), publisher.adapter("cats", 2)
    for adapter in (cats, cats2, cats):
        publisher.publish([adapter])
    for number in (1, 2, 3):
        await stand(publication, number)
    assert list(engine.names) == [1, 2, 3]
    assert publication.current.by_domain["cats"].newest.name == cats.name


async def test_a_version_in_flight_stays_until_its_last_lease_ends(
    publication: Publication, publisher: Publisher, engine: MemoryEngine
) -> None:
    cats, cats2 = publisher.adapter("cats", 1), publisher.adapter("cats", 2)
    publisher.publish([cats])
    publisher.publish([cats2])
    await stand(publication, 1)
    early, late = publication.leases.take(publication.current), publication.leases.take(publication.current)
    early.narrow([cats.name])
    await stand(publication, 2)
    assert cats.name in engine.present
    early.release()
    await publication.settle()
    assert cats.name in engine.present
    late.release()
    await publication.settle()
    assert set(engine.present) == {cats2.name}


@pytest.mark.parametrize("step", ["load", "probe"])
async def test_a_failed_prepare_leaves_everything_as_it_was(
    publication: Publication, publisher: Publisher, engine: MemoryEngine, step: str
) -> None:
    cats, cats2, dogs = publisher.adapter("cats", 1), publisher.adapter("cats", 2), publisher.adapter("dogs", 1)
    publisher.publish([cats])
    publisher.publish([cats2, dogs])
    await stand(publication, 1)
    before = publication.current
    engine.bad[dogs.name] = step
    with pytest.raises(PrepareFailed) as failure:
        await publication.prepare(2)
    assert failure.value.version == dogs.name and failure.value.what and failure.value.remedy
    assert publication.current is before and publication.prepared == ()
    assert set(engine.present) == {cats.name} and publication.residency.known == (cats.name,)
    engine.bad.clear()
    await stand(publication, 2)
    assert set(engine.present) == {cats2.name, dogs.name}


async def test_a_changed_file_is_found(publication: Publication, publisher: Publisher, engine: MemoryEngine) -> None:
    cats = publisher.adapter("cats", 1)
    publisher.publish([cats])
    weights = Path(cats.path) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(PrepareFailed, match=cats.name):
        await publication.prepare(1)
    assert engine.log == []


async def test_a_rank_beyond_the_engine_is_found(publication: Publication, publisher: Publisher) -> None:
    wide = publisher.adapter("cats", 1, rank=9)
    publisher.publish([wide])
    with pytest.raises(PrepareFailed, match=r"its rank is 9.*at most 8"):
        await publication.prepare(1)


async def test_features_of_another_fingerprint_are_refused(publication: Publication, publisher: Publisher) -> None:
    publisher.publish([publisher.adapter("cats", 1)], word_router({"cats": "meow"}, fingerprint="others"))
    with pytest.raises(PrepareFailed, match="fingerprint"):
        await publication.prepare(1)
    assert publication.residency.known == ()


async def test_an_unknown_manifest_is_refused(publication: Publication) -> None:
    with pytest.raises(PrepareFailed, match="manifest 7"):
        await publication.prepare(7)


async def test_a_column_without_an_adapter_is_masked(publication: Publication, publisher: Publisher) -> None:
    publisher.publish([publisher.adapter("cats", 1)], word_router(WORDS))
    await stand(publication, 1)
    scorer = publication.current.scorer
    assert scorer is not None and scorer.columns == ("cats",)
    assert [claimed(decision) for decision in scorer.route(["meow", "woof"])] == ["cats", None]


async def test_a_cancelled_prepare_leaves_nothing(
    publication: Publication, publisher: Publisher, engine: MemoryEngine
) -> None:
    cats, dogs = publisher.adapter("cats", 1), publisher.adapter("dogs", 1)
    publisher.publish([cats, dogs])
    engine.bad[dogs.name] = "hang"
    task = asyncio.create_task(publication.prepare(1))
    while len(engine.log) < 2:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    engine.hanging.set()
    await publication.settle()
    assert engine.present == {} and publication.prepared == ()


async def test_a_failed_unload_is_told_and_tried_again(
    publication: Publication, publisher: Publisher, engine: MemoryEngine
) -> None:
    cats, cats2, cats3 = (publisher.adapter("cats", version) for version in (1, 2, 3))
    for adapter in (cats, cats2, cats3):
        publisher.publish([adapter])
    await stand(publication, 1)
    engine.bad[cats.name] = "unload"
    await stand(publication, 2)
    assert publication.residency.unload_failure is not None and cats.name in publication.residency.known
    engine.bad.clear()
    await stand(publication, 3)
    assert publication.residency.unload_failure is None and publication.residency.known == (cats3.name,)


async def test_an_older_manifest_is_not_prepared(publication: Publication, publisher: Publisher) -> None:
    cats = publisher.adapter("cats", 1)
    publisher.publish([cats])
    publisher.publish([cats])
    await stand(publication, 2)
    with pytest.raises(PrepareFailed, match="already stands on manifest 2"):
        await publication.prepare(1)


ROWS = [Parity(ids=(1, 2, 3, 4), prompt_tokens=2, loss=0.1)] * 2


@pytest.mark.parametrize(("fault", "words"), [("no effect", "no effect"), ("another", "another effect")])
async def test_what_is_loaded_and_has_not_the_effect_that_was_learned_is_never_in_force(
    publication: Publication, publisher: Publisher, engine: MemoryEngine, fault: str, words: str
) -> None:
    cats, cats2 = publisher.adapter("cats", 1, parity=ROWS), publisher.adapter("cats", 2, parity=ROWS)
    publisher.publish([cats])
    publisher.publish([cats2])
    await stand(publication, 1)
    engine.bad[cats2.name] = fault
    with pytest.raises(PrepareFailed, match=rf"cats@v2.*{words}.*2 held-out examples"):
        await publication.prepare(2)
    assert publication.prepared == () and set(engine.present) == {cats.name}
    engine.bad.clear()
    await stand(publication, 2)


async def test_what_a_busy_engine_has_not_probed_is_not_served_and_comes_later(
    publication: Publication, publisher: Publisher, engine: MemoryEngine
) -> None:
    cats, dogs, dogs2 = publisher.adapter("cats", 1), publisher.adapter("dogs", 1), publisher.adapter("dogs", 2)
    publisher.publish([cats, dogs])
    publisher.publish([cats, dogs2])
    await stand(publication, 1)
    engine.bad[dogs2.name] = "busy"
    with pytest.raises(PrepareFailed, match=r"dogs@v2.*no answer within .*tried again"):
        await publication.prepare(2)
    assert publication.current.number == 1 and set(engine.present) == {cats.name, dogs.name}
    engine.bad.clear()
    await stand(publication, 2)
    assert publication.current.number == 2 and set(engine.present) == {cats.name, dogs2.name}


@pytest.mark.parametrize("moment", ["load", "probe"])
async def test_an_engine_that_dies_is_not_the_adapters_fault(
    publication: Publication, publisher: Publisher, engine: MemoryEngine, moment: str
) -> None:
    cats = publisher.adapter("cats", 1)
    publisher.publish([cats])
    if moment == "load":
        engine.failure = "out of memory"
    else:
        engine.bad[cats.name] = "dying"
    with pytest.raises(PrepareFailed, match="engine went down: out of memory") as failure:
        await publication.prepare(1)
    assert "train" not in str(failure.value)


def gone(folder: Path, times: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Put `folder` aside until it has been missed `times` times; what was missed is counted in the list."""
    missed: list[int] = []
    find, aside = Registry.adapter, folder.with_name("aside")
    folder.rename(aside)

    def finding(self: Registry, name: str) -> Adapter:
        try:
            return find(self, name)
        except UnknownAdapter:
            missed.append(1)
            if len(missed) == times:
                aside.rename(folder)
            raise

    monkeypatch.setattr(Registry, "adapter", finding)
    return missed


async def test_a_folder_that_is_away_for_a_moment_is_read_again(
    publication: Publication, publisher: Publisher, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cats = publisher.adapter("cats", 1)
    publisher.publish([cats])
    missed = gone(Path(cats.path), 2, monkeypatch)
    await stand(publication, 1)
    assert len(missed) == 2 and set(engine.present) == {cats.name}


async def test_a_folder_that_stays_away_ends_the_preparation(
    publication: Publication, publisher: Publisher, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cats = publisher.adapter("cats", 1)
    publisher.publish([cats])
    missed = gone(Path(cats.path), 99, monkeypatch)
    with pytest.raises(PrepareFailed, match=f"{cats.name}.*restore the folder"):
        await publication.prepare(1)
    assert len(missed) == 4 and engine.log == []


@pytest.mark.parametrize("what", ["manifest", "weights"])
async def test_a_read_that_fails_once_is_done_again(
    publication: Publication, publisher: Publisher, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    publisher.publish([publisher.adapter("cats", 1)], word_router(WORDS))
    real, calls = getattr(Registry, what), []

    def flaky(self: Registry, argument: object) -> object:
        calls.append(argument)
        if len(calls) == 1:
            raise OSError("stale file handle")
        return real(self, argument)

    monkeypatch.setattr(Registry, what, flaky)
    await stand(publication, 1)
    assert len(calls) == 2 and publication.current.scorer is not None


async def test_damage_is_not_read_again(
    publication: Publication, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    cats = publisher.adapter("cats", 1)
    publisher.publish([cats])
    (Path(cats.path) / "adapter_model.safetensors").write_bytes(b"other")
    asked: list[str] = []
    real = Registry.adapter
    monkeypatch.setattr(Registry, "adapter", lambda self, name: asked.append(name) or real(self, name))
    with pytest.raises(PrepareFailed, match="sha256"):
        await publication.prepare(1)
    assert asked == [cats.name]


async def test_a_load_is_tried_again_once_the_folder_is_seen_to_be_there(
    publication: Publication, publisher: Publisher, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cats = publisher.adapter("cats", 1)
    publisher.publish([cats])
    real, tries = engine.load, []

    async def load(adapter: LoadedAdapter, folder: Path | None) -> None:
        tries.append(adapter.name)
        if len(tries) == 1:
            raise EngineFailed("no such folder")
        await real(adapter, folder)

    monkeypatch.setattr(engine, "load", load)
    await stand(publication, 1)
    assert tries == [cats.name] * 2 and set(engine.present) == {cats.name}


@pytest.mark.parametrize("digest", ["c" * 64, ""])
async def test_a_manifest_of_another_base_is_refused(
    publication: Publication, publisher: Publisher, engine: MemoryEngine, digest: str
) -> None:
    publisher.base = BaseRevision(model="other", digest=digest)
    publisher.publish([publisher.adapter("cats", 1)])
    with pytest.raises(PrepareFailed, match=f"other .*engine runs test .{BASE.digest}"):
        await publication.prepare(1)
    assert engine.log == []


async def test_an_adapter_of_another_base_is_refused(
    publication: Publication, publisher: Publisher, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The registry would not take the manifest either; a replica doesn't rely on who wrote the folder.
    monkeypatch.setattr(Registry, "_check_routes", lambda *_: None)
    publisher.base = BaseRevision(model="other", digest="c" * 64)
    cats = publisher.adapter("cats", 1)
    publisher.base = BASE
    publisher.publish([cats])
    with pytest.raises(PrepareFailed, match=f"{cats.name}.*trained on the base {'c' * 64}.*engine runs test"):
        await publication.prepare(1)
    assert engine.log == []

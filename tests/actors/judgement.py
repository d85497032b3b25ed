"""What must hold of a world at rest, whatever has happened in it.

It takes the stream as it was sent, the books of the witness and what the system says of itself; a difference that the
system names (a loss, a stretch that was never read, a rejected version) is none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from actors.observation import Loss, OpenDomain, RowKey, example_digest
from learning.rls import RouterWeights
from streaming.records import TaskRecord
from streaming.source import TopicPartition
from tests.actors.house import RIDGE, weights_by_domain
from tests.actors.judged_segments import judge_segments
from tests.actors.world import DOMAINS, World, Wrong

NEVER_SEEN = [f"never seen {number}" for number in range(8)]


def judge(world: World) -> None:
    """Raise `Wrong` for the first thing that does not hold."""
    judge_drained(world)
    judge_sums(world)
    judge_counted(world)
    judge_trained(world)
    judge_continued(world)
    judge_served(world)
    judge_segments(world)


def judge_drained(world: World) -> None:
    observed = world.router.observed()
    behind = {str(p): (observed.get(p, 0), end) for p, end in world.stream.ends().items() if observed.get(p, 0) < end}
    _claim(not behind, f"at rest, and not all of the stream is counted (counted, end): {behind}; {world.errors[-3:]}")


def judge_sums(world: World) -> None:
    """The router predicts what one batch solve over the rows that it says it counted predicts."""
    counted = world.router.inner.counted
    train = {d: [row for row in rows.values() if not row.held_out] for d, rows in counted.items()}
    expected = {domain: len(rows) for domain, rows in train.items() if rows}
    found = {domain: count for domain, count in world.router.counts().items() if count}
    _claim(found == expected, f"rows in the sums: {found}, counted: {expected}")
    examples = {domain: len(rows) for domain, rows in counted.items() if rows}
    _claim(world.router.examples() == examples, f"examples: {world.router.examples()}, counted: {examples}")
    if not expected:
        return
    domains = tuple(sorted(expected))
    places = world.books.places
    texts = [str(_record(world, places[row]).prompt) for domain in domains for row in train[domain]]
    labels = [domain for domain in domains for _ in train[domain]]
    phi_ND = world.parts.extractor.extract(texts)
    target_NK = np.array([[float(label == domain) for domain in domains] for label in labels])
    gram_DD = phi_ND.T @ phi_ND + RIDGE * np.eye(phi_ND.shape[1])
    batch = RouterWeights(domains, np.linalg.solve(gram_DD, phi_ND.T @ target_NK), "")
    probes = world.parts.extractor.extract([*texts, *NEVER_SEEN])
    router = weights_by_domain(world.router.inner.router).restrict(domains)
    difference = float(np.abs(router.scores(probes) - batch.scores(probes)).max())
    _claim(difference <= 1e-10, f"predictions differ from the batch solve by {difference}")


def judge_counted(world: World) -> None:
    """Every example that was sent is counted, or was removed, or the system says that it could not be read.

    What compaction took from the log before it was counted is nobody's to miss: a log does not say what it held.
    """
    counted = world.router.inner.counted
    unread, fences = world.router.unread(), world.router.view().fences or {}
    removed = _removed_up_to(world)
    excused: dict[bytes, bool] = {}
    names: dict[bytes, str] = {}
    for (partition, offset), record in world.at.items():
        domain = str(record.domain)
        digest = example_digest(domain, record.id)
        names[digest] = f"{record.id} at {partition}@{offset}"
        gone = offset < removed.get(domain, {}).get(partition, 0) and offset < _fence(fences, domain, partition)
        gone = gone or offset in world.stream.log.compacted[partition] or _is_in(unread, partition, offset)
        known = digest in counted.get(domain, {}) or gone
        excused[digest] = excused.get(digest, False) or known
        row = counted.get(domain, {}).get(digest)
        if row is not None and (row.partition, row.offset) == (partition, offset):
            first = _record(world, world.books.places[row])
            _claim(row.held_out == (first.split == "test"), f"{record.id} is on the wrong side of the exam")
    silent = [names[digest] for digest, known in excused.items() if not known]
    _claim(not silent, f"lost without a word: {silent[:5]} ({len(silent)}); unread: {unread}")


def judge_trained(world: World) -> None:
    """Each counted example is settled by one version, or open with a reason, or named as lost."""
    opened = world.router.open()
    observed = world.router.observed()
    for domain in DOMAINS:
        counted = world.router.inner.counted.get(domain, {})
        settled = world.settled(domain)
        strangers = set(settled) - set(counted)
        _claim(not strangers, f"{domain}: {len(strangers)} settled examples were never counted")
        said = opened.get(domain, OpenDomain())
        left = {digest: row for digest, row in counted.items() if digest not in settled}
        lost = sum(loss.rows for loss in said.lost)
        _claim(
            len(left) == said.train + said.held_out + lost,
            f"{domain}: {len(left)} examples are not settled, the ledger says {said}",
        )
        held = _held(world, domain, observed)
        missing = [row for digest, row in left.items() if digest not in held]
        unsaid = [row for row in missing if not _is_in(said.lost, row.partition, row.offset)]
        _claim(not unsaid, f"{domain}: no spool holds {_names(world, unsaid)}, and nobody says so: {said.lost}")
        _claim(len(missing) == lost, f"{domain}: {len(missing)} examples are in no spool, said to be lost: {lost}")
        wrong = {digest for digest, row in held.items() if digest not in left or left[digest] != row}
        _claim(not wrong, f"{domain}: spools would give {len(wrong)} rows for training that are not open")
        _claim(said.seal is None, f"{domain}: sealed for ever: {said.seal}; {_state(world, domain)}")
        _claim(
            not (said.markers and said.closable),
            f"{domain}: complete and never closed: {said}; {_state(world, domain)}",
        )


def judge_continued(world: World) -> None:
    """Each version goes on from what the one accepted before it serves with, in service or not: its rows are never
    trained on again.

    Only where an operator went back in between, it may go on from what that one serves with.
    """
    for domain in DOMAINS:
        states: dict[str, Mapping[int, str]] = {}
        starts: list[Mapping[int, str]] = [{}]
        for commit in world.books.line(world.router.inner.router._digest):
            change, settled = commit.change, commit.settled
            if change is not None and domain in change.removes:
                states, starts = {}, [{}]
            if settled is not None and settled.domain == domain:
                right = settled.before in starts
                _claim(right, f"{domain}: {settled.adapter} goes on from {settled.before}, expected one of {starts}")
                states[settled.adapter] = settled.state
                starts = [settled.state]
            elif change is not None and change.override and change.pins.get(domain):
                starts += [states[change.puts[domain]]] if domain in change.puts else []


def judge_served(world: World) -> None:
    """Replicas serve what is in force, and what is in force is the last version accepted; under a pin, that waits."""
    current = world.registry.current()
    number = current.number if current else 0
    serving = [shelf.number for shelf in world.replicas.shelves]
    _claim(serving == [number], f"replicas serve {serving}, in force is {number}")
    _claim(world.replicas.in_force() == number, f"the directory leads to {world.replicas.in_force()}, not to {number}")
    for domain in DOMAINS:
        state = _state(world, domain)
        _claim("failed" not in state.split(":")[0], f"{domain} has failed for ever: {state}")
        settled = list(world.settled(domain).values())
        route = current.routes.get(domain) if current else None
        if settled:
            _claim(route is not None, f"{domain}: {settled[-1]} is accepted and nothing is served; {state}")
        if settled and current is not None and route is not None:
            waiting = current.withdrawn.get(domain)
            last = waiting or route.adapter
            _claim(last == settled[-1], f"{domain}: {route.adapter} is served, {settled[-1]} is the last one")
            _claim(route.pinned or waiting is None, f"{domain}: {waiting} is not served, and nothing is pinned")


def judge_residues(world: World) -> None:
    """After pruning, no file holds an example that was removed and not sent again."""
    counted = world.router.inner.counted
    removed = _removed_up_to(world)
    gone: dict[bytes, TaskRecord] = {}
    for record in world.at.values():
        digest = example_digest(str(record.domain), record.id)
        if str(record.domain) in removed and digest not in counted.get(str(record.domain), {}):
            gone[digest] = record
    if not gone:
        return
    for path in _files(world.home):
        content = path.read_bytes()
        for digest, record in gone.items():
            for what in (digest, digest.hex().encode(), f'"{record.id}"'.encode(), str(record.prompt).encode()):
                # Followed by a digit it is the beginning of another example's text.
                found = what in content and re.search(re.escape(what) + rb"(?!\d)", content)
                _claim(not found, f"{path.relative_to(world.home)} still holds {what!r} of {record.id}")


def _held(world: World, domain: str, observed: dict[TopicPartition, int]) -> dict[bytes, RowKey]:
    """What all spools together would give for a training of the domain, by digest."""
    found: dict[bytes, RowKey] = {}
    counted = world.router.inner.counted.get(domain, {})
    for ingest in world.ingests:
        for held_out, examples in zip((False, True), ingest.examples(domain, observed), strict=True):
            for example in examples:
                digest = example_digest(domain, example.id)
                row = counted.get(digest)
                _claim(row is not None, f"{domain}: a spool gives {example.id} for training, which is not counted")
                if row is None:
                    continue
                record = _record(world, row)
                same = (example.prompt, example.completion) == (record.prompt, record.completion)
                _claim(same and row.held_out == held_out, f"{domain}: a spool gives another {example.id}")
                found[digest] = row
    return found


def _removed_up_to(world: World) -> dict[str, dict[TopicPartition, int]]:
    """By domain, where the stream ended when it was last removed along the line in force."""
    found: dict[str, dict[TopicPartition, int]] = {}
    for commit in world.books.line(world.router.inner.router._digest):
        for domain in commit.change.removes if commit.change is not None else ():
            found[domain] = dict(commit.ends)
    return found


def _fence(fences: object, domain: str, partition: TopicPartition) -> int:
    return int(fences.get(domain, {}).get(partition, 0))  # type: ignore[attr-defined]


def _is_in(losses: Iterable[Loss], partition: TopicPartition, offset: int) -> bool:
    return any(loss.partition == partition and loss.first <= offset <= loss.last for loss in losses)


def _record(world: World, row: RowKey) -> TaskRecord:
    return world.at[(row.partition, row.offset)]


def _names(world: World, rows: list[RowKey]) -> list[str]:
    return [f"{_record(world, row).id} at {row.partition}@{row.offset}" for row in rows[:5]]


def _state(world: World, domain: str) -> str:
    found = world.state(domain)
    return f"{found.state}: {found.detail}" if found else "unknown"


def _files(home: Path) -> Iterator[Path]:
    for folder in ("registry", "spool", "work"):
        yield from (path for path in sorted((home / folder).rglob("*")) if path.is_file())


def _claim(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)

"""What a person may decide about a home that lies still: none of it is done by the system itself."""

from __future__ import annotations

from actors import ledger_state
from actors.errors import UnknownDomain
from actors.observation import WriterRun
from registry.errors import RegistryError
from registry.registry import Registry


def go_back(registry: Registry, to: int | None) -> list[str]:
    """Put an earlier whole snapshot in force, number `to` or the newest there is; returns what that means, and why
    newer ones were passed over, in lines."""
    try:
        before = registry.manifests()
    except RegistryError:
        # What is damaged can't tell what is undone.
        before = []
    after, passed_over = registry.go_back(to)
    passed = [f"passed over: {each}" for each in passed_over]
    undone = [f"undone: manifest {each.number}, {each.reason}" for each in before if each.number > after.manifest]
    return [*passed, f"in force are snapshot {after.number} and manifest {after.manifest}", *undone]


def take_log(registry: Registry, topic: str) -> list[str]:
    """Accept that another log stands under a topic's name: its partitions are read from their beginning.

    What was counted stays counted; examples that were still to be trained on are lost unless they are sent again, and
    what came after the last commit has to be sent again too. Returns what that means, in lines. Raises `UnknownDomain`
    where the ledger knows no such topic.
    """
    epoch = registry.begin_epoch()
    snapshot, head = registry.snapshot(), registry.head()
    if snapshot is None:
        raise UnknownDomain(f"{registry.root}: nothing was counted yet, so any log may stand under {topic!r}")
    store, state = registry.segments, snapshot.state
    ledger = ledger_state.restore(state["ledger"], store)
    known = {*ledger.logs, *(partition.topic for partition in ledger.observed)}
    if topic not in known:
        raise UnknownDomain(f"{registry.root}: nothing was counted from topic {topic!r}; known: {sorted(known)}")
    counted = {str(partition): end for partition, end in sorted(ledger.observed.items()) if partition.topic == topic}
    sealed = {domain: entry.seal for domain, entry in ledger.entries.items()}
    unlearned = {d for d, seal in sealed.items() if seal is not None and not registry.has_version(d, seal.version)}
    lost = ledger.take_log(topic, unlearned)
    document = ledger_state.save(ledger, store)
    runs = [*state["runs"], list(WriterRun(epoch.name, head.snapshot + 1))]
    before = ledger_state.segments(state["ledger"])
    names = (snapshot.segments - before) | ledger_state.segments(document)
    registry.commit({**state, "ledger": document, "runs": runs}, names, epoch=epoch, parent=head.snapshot_digest)
    reached = ", ".join(f"{partition} {end}" for partition, end in counted.items()) or "nowhere"
    return [
        f"topic {topic} is read from its beginning; {lost} examples that waited for a training are lost",
        f"the former log was counted up to (partition, offset): {reached}; send again what came after",
    ]

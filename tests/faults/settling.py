"""What must hold of a system that is left alone after an attack: all is learned, once, and is served."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from typing import Any

import httpx

from actors.exam import is_held_out
from configs.settings import Settings
from tests.e2e.system import System
from tests.faults.course import DOMAINS, Course
from tests.faults.oracle import difference_from_batch

LONGEST_STILL_S = 240.0
"""Once nobody is attacked any more, something must come on within this time: whatever failed is tried again after a
minute at most, and processes start slowly where many do at once."""
STUCK_S = 10.0
"""For so long a domain must stand as it does before more is sent of it: a marker may still be under way."""
MOST_SENDS = 10
"""How often more of one domain is sent, as its versions are rejected."""


def ends_exact(
    system: System, course: Course, settings: Settings, longest_s: float, *, all_versions: bool = True
) -> None:
    """Wait until all is learned, and check that every row counted once and every domain is served; with `all_versions`,
    as none is pruned, also that every row was trained once by the accepted ones."""
    wait_until_all_is_learned(system, course, longest_s)
    _counts_are_exact(system, course, settings.ingest.held_out_fraction, all_versions=all_versions)
    _domains_are_served(system)


def ask(system: System, path: str) -> dict[str, Any]:
    """What is answered there; nothing where nobody can answer now."""
    with suppress(httpx.HTTPError):
        answer = httpx.get(f"{system.url}{path}", timeout=60)
        if answer.status_code == 200:
            return dict(answer.json())
    return {}


def wait_until_all_is_learned(system: System, course: Course, longest_s: float) -> None:
    """Wait, and send more of a domain whose last version was rejected: its examples wait for new ones, by design.

    Raises AssertionError where nothing comes on for `LONGEST_STILL_S`, or not all within `longest_s`.
    """
    began = time.monotonic()
    last: dict[str, Any] = {}
    since: dict[str, float] = {}
    sends: Counter[str] = Counter()
    while not _is_settled(status := ask(system, "/v1/status"), course):
        now = time.monotonic()
        for name, figures in _figures(status).items():
            if last.get(name) != figures:
                last[name], since[name] = figures, now
        for domain in _waits_for_more(status, course):
            if now - since[domain] > STUCK_S and sends[domain] < MOST_SENDS:
                course.note(f"more of {domain}")
                course.send_more(domain)
                sends[domain] += 1
        still = now - max(since.values(), default=began)
        assert still < LONGEST_STILL_S, f"not all is learned, and nothing comes on for {still:.0f} s"
        assert now - began < longest_s, f"not all is learned within {now - began:.0f} s"
        time.sleep(0.5)


def _is_settled(status: dict[str, Any], course: Course) -> bool:
    """Whether every record is known, nothing waits, and what is in force is served."""
    domains = {each["domain"]: each for each in status.get("domains", ())}
    return (
        {name: each["examples"] for name, each in domains.items()} == course.counts()
        and all(each["state"] == "published" and not _waiting(each) for each in domains.values())
        and {each["manifest"] for each in status["replicas"].values()} == {status["manifest"]}
    )


def _figures(status: dict[str, Any]) -> dict[str, Any]:
    """What changes as things come on, of each domain and each worker: no times, and no words that hold any."""
    kept = ("state", "examples", "router_rows", "waiting", "version", "progress")
    found: dict[str, Any] = {
        each["domain"]: [*(each[name] for name in kept), len(each["versions"])] for each in status.get("domains", ())
    }
    return found | {each["name"]: (each["polled"], each["spooled"]) for each in status.get("ingest", ())}


def _waits_for_more(status: dict[str, Any], course: Course) -> list[str]:
    """The domains of which something waits that no version is made of before more is sent.

    Either the newest version was rejected, which a coordinator that was started since does not say in `state`, or all
    that waits is held out.
    """
    return [
        each["domain"]
        for each in status.get("domains", ())
        if each["examples"] == course.counts()[each["domain"]]
        and each["state"] in ("open", "published", "rejected")
        and not each["waiting"]["sealed"]
        and _waiting(each)
        and (not each["waiting"]["train"] or _newest(each).get("status") == "rejected")
    ]


def _waiting(domain: dict[str, Any]) -> int:
    return int(domain["waiting"]["train"] + domain["waiting"]["held_out"])


def _newest(domain: dict[str, Any]) -> dict[str, Any]:
    """The version with the highest number; nothing where there is none."""
    numbered = {int(each["name"].rpartition("@v")[2].partition("-")[0]): each for each in domain["versions"]}
    return dict(numbered[max(numbered)]) if numbered else {}


def report(system: System, course: Course) -> str:
    """How each domain, worker, replica and actor stands, a line each; whole, as the versions are only counted."""
    if not system.url:
        return "it was never up"
    status, sent = ask(system, "/v1/status"), course.counts()
    lines = [f"manifest {status.get('manifest')}, unread {status.get('unread')}, trouble {status.get('trouble')}"]
    for each in status.get("domains", ()):
        versions = Counter(version["status"] for version in each["versions"])
        told = {name: value for name, value in each.items() if name != "versions"}
        newest = {name: value for name, value in _newest(each).items() if name != "figures"}
        lines.append(f"{told}, sent {sent[each['domain']]}, versions {dict(versions)}, newest {newest}")
    lines += map(str, status.get("ingest", ()))
    lines += [f"{name}: {each}" for name, each in status.get("replicas", {}).items()]
    lines += [f"{name}: {each}" for name, each in sorted(ask(system, "/actors").items())]
    return "\n".join(lines if status else ["nobody tells the status", *lines[1:]])


# -- what must hold then ----------------------------------------------------------------------------------------------


def _counts_are_exact(system: System, course: Course, fraction: float, *, all_versions: bool) -> None:
    """Every id is known once, in the sums once if it is not held out, and trained once by the versions accepted; and
    nothing was lost."""
    trained = Counter(record.domain for record in course.sent.values() if not is_held_out(record, fraction))
    status = ask(system, "/v1/status")
    domains = {each["domain"]: each for each in status["domains"]}
    assert {name: each["examples"] for name, each in domains.items()} == course.counts()
    assert {name: each["router_rows"] for name, each in domains.items()} == trained
    by_versions = {
        name: sum(version["examples"] for version in each["versions"] if version["status"] == "accepted")
        for name, each in domains.items()
    }
    assert by_versions == trained or not all_versions
    assert not any(each["lost"] for each in domains.values()) and not status["unread"]


def _domains_are_served(system: System) -> None:
    """Each domain is answered by the version that the manifest in force names, and that manifest is the newest."""
    status = ask(system, "/v1/status")
    assert {each["manifest"] for each in status["replicas"].values()} == {status["manifest"]}
    for each in status["domains"]:
        body = {"model": each["domain"], "messages": [{"role": "user", "content": "hello"}]}
        answer = httpx.post(f"{system.url}/v1/chat/completions", json=body, timeout=60)
        assert answer.headers["x-anabranch-adapter"] == each["version"], answer.text


def predicts_as_batch_ridge(settings: Settings, course: Course) -> None:
    """The published router's scores against one ridge solve over all training examples (relative 1e-10)."""
    fraction = settings.ingest.held_out_fraction
    records = [record for record in course.sent.values() if not is_held_out(record, fraction)]
    assert {str(record.domain) for record in records} == set(DOMAINS)
    assert difference_from_batch(settings, records) <= 1e-10

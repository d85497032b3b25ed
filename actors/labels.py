"""Under which labels a domain's rows stand in the router's sums.

    news, news#2 ..          the rows that each segment has learned (`registry.manifest.column`)
    news+open                counted since, to be learned next
    news+sealed              those that a version is being made of
    news+after/topic/0       counted behind the domain's marker in a partition: they belong to what comes after it

A label moves as a whole, so the rows of a version are told from all others without a list of them. A column of the
router sums the labels of one segment; what no version has learned yet counts with the domain's last segment that is in
service: as a class of its own it would push that one's scores down. Knows names only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from registry.manifest import Route, column
from streaming.source import TopicPartition


def open_label(domain: str) -> str:
    """Label of the rows that are to be learned next."""
    return f"{domain}+open"


def sealed_label(domain: str) -> str:
    """Label of the rows that a version is being made of."""
    return f"{domain}+sealed"


def after_label(domain: str, partition: TopicPartition) -> str:
    """Label of the rows behind the domain's marker in a partition."""
    return f"{domain}+after/{partition.topic}/{partition.partition}"


def domain_of(label: str) -> str:
    """The domain that a label or a column belongs to.

    >>> domain_of("news#2"), domain_of("news+after/t/0"), domain_of("news")
    ('news', 'news', 'news')
    """
    return label.partition("+")[0].partition("#")[0]


def segment_of(label: str) -> int:
    """The segment that has learned the rows under a label without a `+`.

    >>> segment_of("news"), segment_of("news#2")
    (1, 2)
    """
    return int(label.partition("#")[2] or 1)


def by_domain(labels: Iterable[str]) -> dict[str, list[str]]:
    """Labels by domain, sorted."""
    found: dict[str, list[str]] = {}
    for label in sorted(labels):
        found.setdefault(domain_of(label), []).append(label)
    return found


def columns(routes: Mapping[str, Route], labels: Iterable[str]) -> dict[str, list[str]]:
    """The router's columns for what is in service, each with the labels whose rows are its own.

    A segment without rows of its own has no column: nothing is known of what belongs to it.
    """
    present = by_domain(labels)
    found: dict[str, list[str]] = {}
    for domain, route in sorted(routes.items()):
        own = present.get(domain, [])
        waiting = [label for label in own if "+" in label]
        last = max(route.segments)
        for segment in route.segments:
            name = column(domain, segment)
            rows = [name] if name in own else []
            if segment == last:
                rows += waiting
            if rows:
                found[name] = rows
    return found

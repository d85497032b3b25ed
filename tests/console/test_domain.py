"""What a person reads of a domain and of a decision: whole, in words."""

from __future__ import annotations

import json
from typing import Any

from tests.console.answers import FrontDoor, front_door

WHY = "confidence 0.10 is below the threshold 0.50, which keeps 95 % of held-out prompts of its domains"
REASON = "a segment of its own: v1 would lose [0.31] of its exam"
DOMAIN: dict[str, Any] = {
    "domain": "dates",
    "state": "published",
    "version": "dates@v2-0a1b2c3d",
    "pinned": True,
    "examples": 90,
    "router_rows": 80,
    "prequential": 0.975,
    "prequential_rows": 40,
    "waiting": {"train": 3, "held_out": 1},
    "segments": [
        {"segment": 1, "version": "dates@v1-9f8e7d6c", "examples": 6, "router_rows": 50, "figures": {"exact": 0.95}},
        {"segment": 2, "version": "dates@v2-0a1b2c3d", "examples": 4, "router_rows": 30, "figures": {"loss": None}},
    ],
    "versions": [
        {
            "name": "dates@v2-0a1b2c3d",
            "status": "accepted",
            "reason": REASON,
            "examples": 36,
            "segment": 2,
            "beside": ["dates@v1-9f8e7d6c"],
            "figures": {"candidate_loss": 0.123456},
        }
    ],
}


def shown(domain: dict[str, Any]) -> list[str]:
    with front_door(FrontDoor(body=json.dumps({"domains": [domain]}).encode())) as door:
        done = door.run("domains", "show", "dates")
    assert done.exit_code == 0, done.exception
    return [" ".join(line.replace("\u2502", " ").split()) for line in done.stdout.splitlines()]


def test_a_domain_is_shown_with_its_segments_and_the_gates_words() -> None:
    lines = shown(DOMAIN)
    for line in (
        "dates: published",
        "version dates@v2-0a1b2c3d (pinned)",
        "examples 90, in the router 80, waiting 4",
        "routed right 97.5 % of the last 40 rows, before they were learned",
        "1 dates@v1-9f8e7d6c 6 50 exact 0.95",
        "2 dates@v2-0a1b2c3d 4 30 loss -",
        f"dates@v2-0a1b2c3d 2 beside dates@v1-9f8e7d6c accepted 36 {REASON} candidate_loss 0.1235",
    ):
        assert line in lines, lines


def test_a_domain_that_was_never_published_is_shown() -> None:
    empty = {"version": None, "pinned": False, "prequential": None, "segments": [], "versions": [], "detail": "why"}
    assert shown({**DOMAIN, **empty, "state": "open"}) == [
        "dates: open: why",
        "version -",
        "examples 90, in the router 80, waiting 4",
    ]


def test_route_says_why_the_base_would_answer() -> None:
    decision = {"index": 0, "domain": "base", "adapter": "base", "score": 0.1, "confidence": 0.1, "abstained": WHY}
    with front_door(FrontDoor(body=json.dumps({"manifest": 1, "decisions": [decision]}).encode())) as door:
        assert door.run("route", "hello").stdout == f"base  base  score 0.100\nleft to the base: {WHY}\n"
        assert json.loads(door.run("route", "hello", "--json").stdout)["abstained"] == WHY

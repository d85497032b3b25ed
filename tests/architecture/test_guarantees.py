"""Every test that docs/guarantees.md rests a guarantee on is there."""

import re

from tests.architecture.sources import REPOSITORY

_TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_every_guarantee_names_tests_that_are_there() -> None:
    text = (REPOSITORY / "docs" / "guarantees.md").read_text(encoding="utf-8")
    promises = text.split("## What it rests on")[0]
    rows = [row for row in promises.splitlines() if row.startswith("| ") and not row.startswith("| guarantee")]
    assert rows
    for row in rows:
        named = _TEST.findall(row)
        assert named or "the same" in row, row
        for file, name in named:
            path = REPOSITORY / file
            assert path.is_file(), row
            assert not name or re.search(rf"def {name}\(", path.read_text(encoding="utf-8")), row

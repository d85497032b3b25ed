"""The pictures of docs/performance.md can be drawn from the results that are committed."""

import json
from pathlib import Path

import pytest

from benchmarks import front_end
from benchmarks.performance_pictures import draw


@pytest.mark.slow
def test_each_picture_is_drawn_from_the_committed_results(tmp_path: Path) -> None:
    names = ("front_end", "ingest", "lora_rows", "routed", "slots")
    draw(tmp_path, {name: json.loads((front_end.RESULT.parent / f"{name}.json").read_text()) for name in names})
    drawn = sorted(tmp_path.iterdir())
    assert [path.stem for path in drawn] == [f"performance_{each}" for each in ("domains", "ingest", "request", "rows")]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)

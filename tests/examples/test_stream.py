"""The committed stream is what the generator makes, and its test rows are unseen and carry no domain name."""

import json
from itertools import combinations
from pathlib import Path

import pytest

from examples.generate import DOMAINS, LONGEST_COMPLETION, LONGEST_PROMPT, TEST_ROWS, TRAIN_ROWS, write

STREAM = Path(__file__).parents[2] / "examples" / "stream"


def read(slug: str, part: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (STREAM / f"{slug}.{part}.jsonl").read_text("utf-8").splitlines()]


def prompts(slug: str, part: str) -> set[str]:
    return {row["prompt"] for row in read(slug, part)}


@pytest.mark.parametrize("slug", DOMAINS)
def test_generator_reproduces_committed_bytes(slug: str, tmp_path: Path) -> None:
    write(slug, tmp_path)
    for part in ("train", "test"):
        name = f"{slug}.{part}.jsonl"
        assert (tmp_path / name).read_bytes() == (STREAM / name).read_bytes()


@pytest.mark.parametrize("slug", DOMAINS)
def test_rows_are_records_of_the_domain(slug: str) -> None:
    train, test = read(slug, "train"), read(slug, "test")
    assert (len(train), len(test)) == (TRAIN_ROWS, TEST_ROWS)
    assert {row["split"] for row in train} == {None}
    assert {row["split"] for row in test} == {"test"}
    assert len({row["id"] for row in train + test}) == TRAIN_ROWS + TEST_ROWS
    for row in train + test:
        assert row["domain"] == slug
        assert 0 < len(row["prompt"].encode()) <= LONGEST_PROMPT
        assert 0 < len(row["completion"].encode()) <= LONGEST_COMPLETION


@pytest.mark.parametrize("slug", DOMAINS)
def test_test_prompts_are_unseen(slug: str) -> None:
    assert len(prompts(slug, "test")) == TEST_ROWS
    assert not prompts(slug, "test") & prompts(slug, "train")


def test_no_prompt_belongs_to_two_domains() -> None:
    every = {slug: prompts(slug, "train") | prompts(slug, "test") for slug in DOMAINS}
    assert not any(every[first] & every[second] for first, second in combinations(DOMAINS, 2))


@pytest.mark.parametrize("slug", DOMAINS)
def test_no_prompt_names_a_domain(slug: str) -> None:
    for prompt in prompts(slug, "train") | prompts(slug, "test"):
        assert not any(name in prompt for name in DOMAINS)


def test_stream_is_small_and_complete() -> None:
    files = list(STREAM.iterdir())
    assert {file.name for file in files} == {f"{slug}.{part}.jsonl" for slug in DOMAINS for part in ("train", "test")}
    assert sum(file.stat().st_size for file in files) < 1_000_000

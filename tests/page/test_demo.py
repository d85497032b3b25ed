"""A person's way through the page, on a whole system: a file is fed, learned, asked about, and rolled back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import REPOSITORY, System

pytestmark = [pytest.mark.page, pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(420)]

DOMAIN = "german-dates"
STREAM = REPOSITORY / "examples" / "stream"
LEARNED_MS = 180_000


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    with System("demo", tmp_path / "home") as running:
        yield running


def rows(part: str) -> list[dict[str, str]]:
    lines = (STREAM / f"{DOMAIN}.{part}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def feed(page: Any, url: str, file: Path, examples: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(each) + "\n" for each in examples), encoding="utf-8")
    page.goto(f"{url}/#/feed")
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_role("button", name=f"Send {len(examples)} rows").click()
    page.get_by_text(f"{len(examples)} examples in the stream; done").wait_for()


def ask(page: Any, url: str, prompt: str) -> Any:
    page.goto(f"{url}/#/ask")
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("button", name="Ask", exact=True).click()
    turn = page.get_by_role("article").first
    turn.get_by_text("manifest").wait_for()
    return turn


def test_a_person_feeds_sees_it_learned_asks_and_rolls_back(browser: Any, system: System, tmp_path: Path) -> None:
    page = browser.new_page()
    page.set_default_timeout(60_000)
    examples, question = rows("train"), rows("test")[0]

    page.goto(system.url)
    page.get_by_text("No domain is known yet.").wait_for()
    turn = ask(page, system.url, question["prompt"])
    assert turn.get_by_role("heading", name="base").is_visible()

    feed(page, system.url, tmp_path / "first.jsonl", examples[:300])
    card = page.get_by_role("article", name=DOMAIN)
    card.get_by_text("learning", exact=True).wait_for(timeout=LEARNED_MS)
    card.get_by_text("published", exact=True).wait_for(timeout=LEARNED_MS)

    turn = ask(page, system.url, question["prompt"])
    turn.get_by_role("heading", name=DOMAIN).wait_for()
    turn.get_by_text("Why").wait_for()
    assert turn.get_by_role("list", name="Scores by domain").get_by_role("listitem").count() == 1
    assert turn.locator(".answer .text").first.inner_text().strip() == question["completion"].strip()

    feed(page, system.url, tmp_path / "second.jsonl", examples[300:])
    page.goto(f"{system.url}/#/domains/{DOMAIN}")
    page.get_by_role("row", name=re.compile("^v2-.* serves")).wait_for(timeout=LEARNED_MS)
    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    page.locator("dd", has_text=re.compile("^v1-.*pinned")).wait_for()
    assert f"{DOMAIN}@v1-" in ask(page, system.url, question["prompt"]).inner_text()

    page.goto(f"{system.url}/#/publications")
    page.get_by_role("listitem").filter(has_text=f"{DOMAIN} rolled back").last.wait_for()
    page.goto(f"{system.url}/#/decisions")
    page.get_by_text(question["prompt"]).first.wait_for()
    page.close()

"""The page in a real browser, over a front door whose system the test sets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page.stand import World, learning, published, standing

pytestmark = [pytest.mark.page, pytest.mark.timeout(180)]

PATIENCE_MS = 90_000
"""On a busy machine a browser takes long to begin."""
VIEWS = ("", "domains", "domains/cats", "ask", "feed", "accuracy", "decisions", "map", "publications")
READY = {
    "": "Replicas",
    "domains": "cats",
    "domains/cats": "The gate's words",
    "ask": "Prompt",
    "feed": "undecodable",
    "accuracy": "0.97",
    "decisions": "meow",
    "map": "cats",
    "publications": "Manifest 1",
}


@pytest.fixture(scope="module")
def world() -> World:
    return World([published("cats"), published("dogs"), learning("newts", 40)])


@pytest.fixture(scope="module")
def url(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with standing(tmp_path_factory.mktemp("stand"), world) as (address, _):
        yield address


@pytest.fixture
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page of a new visitor's; what goes wrong in it fails the test."""
    context = browser.new_context(**getattr(request, "param", {"viewport": {"width": 1280, "height": 800}}))
    opened, wrong = context.new_page(), []
    opened.set_default_timeout(PATIENCE_MS)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda said: said.type == "error" and wrong.append(said.text))
    yield opened
    context.close()
    # Chromium says so of every answer that is none, and the page says it in words.
    assert [each for each in wrong if "Failed to load resource" not in each] == []


def show(page: Any, url: str, view: str) -> None:
    page.goto(f"{url}/#/{view}")
    page.get_by_text(READY[view]).first.wait_for()


def ask(page: Any, url: str, prompt: str) -> Any:
    """Ask in the playground; the turn that came of it."""
    page.goto(f"{url}/#/ask")
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_label("Prompt").press("Enter")
    turn = page.get_by_role("article").first
    turn.get_by_text("Why").wait_for()
    return turn


@pytest.fixture(scope="module")
def asked(browser: Any, url: str) -> None:
    """Some decisions to be looked at."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    for prompt in ("meow", "woof woof", "something else"):
        ask(page, url, prompt)
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_view_has_a_serious_finding_of_axe(browser: Any, url: str, asked: None, theme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(color_scheme=theme)
    page.set_default_timeout(PATIENCE_MS)
    found = {}
    for view in VIEWS:
        show(page, url, view)
        result = Axe().run(page).response
        bad = [each for each in result["violations"] if each["impact"] in ("serious", "critical", "moderate")]
        if bad:
            found[view] = [(each["id"], [node["html"][:120] for node in each["nodes"][:3]]) for each in bad]
        assert len(result["passes"]) > 10, "axe has looked at it"
    page.close()
    assert found == {}


@pytest.mark.parametrize(
    "page", [{"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}], indirect=True
)
def test_on_a_phone_nothing_lies_beside_the_screen(page: Any, url: str, asked: None) -> None:
    for view in VIEWS:
        show(page, url, view)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view


def test_the_river_tells_what_is_and_what_fails(page: Any, url: str, world: World) -> None:
    show(page, url, "")
    river = page.get_by_role("list").filter(has_text="Ingest").last
    text = river.inner_text()
    for words in ("3 to be read", "1 domain in training", "step 40 of 180", "2 domains in service", "1 of 1 serve it"):
        assert words in re.sub(r"\s+", " ", text), words
    world.trouble = "the broker at noon is away"
    try:
        page.get_by_text("the broker at noon is away").wait_for()
    finally:
        world.trouble = None
    page.get_by_text("Nothing is failing.").wait_for()


def test_what_changes_is_seen_without_loading_anew(page: Any, url: str, world: World) -> None:
    show(page, url, "domains")
    world.known["newts"] = learning("newts", 120)
    page.get_by_text("Step 120 of 180").wait_for()
    world.known["axolotls"] = published("axolotls")
    page.get_by_role("link", name="axolotls").wait_for()
    del world.known["axolotls"]
    page.get_by_role("link", name="axolotls").wait_for(state="detached")
    world.known["newts"] = learning("newts", 40)


def test_a_system_that_is_away_is_said_and_comes_back(page: Any, url: str, world: World) -> None:
    show(page, url, "")
    world.up = False
    page.get_by_text("the coordinator does not answer").wait_for()
    world.up = True
    page.get_by_text("the coordinator does not answer").wait_for(state="detached")


def test_a_question_is_answered_explained_compared_and_taught(page: Any, url: str, world: World) -> None:
    turn = ask(page, url, "meow please")
    assert turn.locator(".answer .text").first.inner_text().startswith(f"cats@v1-{_digest(turn)} meow please")
    assert turn.get_by_role("list", name="Scores by domain").get_by_role("listitem").count() == 2
    assert "is enough for a domain to answer" in turn.inner_text()
    turn.get_by_role("button", name="The same by the base").click()
    turn.get_by_text("base meow please").wait_for()
    turn.get_by_label("The same by").select_option("dogs")
    turn.locator(".answer").nth(2).get_by_text("woof").or_(
        turn.locator(".answer").nth(2).get_by_text("dogs@v1")
    ).first.wait_for()
    turn.get_by_role("button", name="Edit and send as an example").first.click()
    turn.get_by_label("What should have been said").fill("purr")
    turn.get_by_role("button", name="Send", exact=True).click()
    turn.get_by_text("It is in the stream").wait_for()
    assert world.records[-1] == {"domain": "cats", "prompt": "meow please", "completion": "purr"}


def _digest(turn: Any) -> str:
    found = re.search(r"cats@v1-([0-9a-f]{8}), manifest 1", turn.inner_text())
    assert found
    return found[1]


def test_what_no_domain_claims_says_why(page: Any, url: str) -> None:
    turn = ask(page, url, "something else")
    assert "Left to the base: confidence" in turn.inner_text()


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_file_is_mapped_sent_and_what_is_refused_is_told(
    page: Any, url: str, world: World, tmp_path: Path, form: str
) -> None:
    before = len(world.records)
    rows = [{"q": f"ask, {n}", "a": f'say "{n}"'} for n in range(450)]
    rows[3]["a"], rows[5]["a"], rows[410]["a"] = "refuse me", "", "refuse me"
    if form == "jsonl":
        text = "\n".join([*map(json.dumps, rows), "{broken", ""])
    else:
        quoted = ('"{}","{}"'.format(row["q"], row["a"].replace('"', '""')) for row in rows)
        text = "\n".join(["q,a", *quoted, "too,many,cells", ""])
    file = tmp_path / f"My Newts.train.{form}"
    file.write_text(text)
    page.goto(f"{url}/#/feed")
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_label("Prompt").select_option("q")
    page.get_by_label("Completion").select_option("a")
    assert page.get_by_label("Its name").input_value() == "my-newts"
    page.get_by_label("Its name").fill("newts")
    page.get_by_role("button", name="Send 450 rows").click()
    page.get_by_text("447 examples in the stream, 4 refused; done").wait_for()
    page.get_by_text("What was refused").click()
    shift = 2 if form == "csv" else 1
    for line in (3 + shift, 5 + shift, 410 + shift, 450 + shift):
        assert page.get_by_text(f"line {line}:").is_visible()
    sent = world.records[before:]
    assert sent[-1] == {"kind": "end_of_domain", "domain": "newts"}
    assert sent[0] == {"domain": "newts", "prompt": "ask, 0", "completion": 'say "0"'} and len(sent) == 448
    assert page.get_by_role("article", name="newts").is_visible(), "it is watched as it is learned"


@pytest.mark.parametrize("name", ["empty.jsonl", "binary.csv", "list.jsonl"])
def test_a_file_that_is_none_of_examples_is_said_so(page: Any, url: str, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes({"empty.jsonl": b"", "binary.csv": b"\x00\xff\xfe", "list.jsonl": b"[1, 2]\n7\n"}[name])
    page.goto(f"{url}/#/feed")
    page.locator("input[type=file]").set_input_files(file)
    page.get_by_role("alert").filter(has_text="no row in it can be read").wait_for()


def test_a_dead_letter_is_mended_and_sent(page: Any, url: str, world: World) -> None:
    show(page, url, "feed")
    page.get_by_text("undecodable").click()
    page.get_by_label("The record").fill('{"domain": "a", "prompt": "b", "completion": "c"}')
    page.get_by_role("button", name="Send it like this").click()
    page.get_by_text("1 record in the stream again.").wait_for()
    assert world.replays[-1] is not None and str(world.replays[-1][0].text).startswith('{"domain"')


def test_a_version_is_rolled_back_and_a_domain_removed_only_after_a_question(page: Any, url: str, world: World) -> None:
    world.calls.clear()
    show(page, url, "domains/cats")
    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert world.calls == []
    page.get_by_role("button", name="Roll back").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    page.get_by_text("Manifest 2: rollback").wait_for()
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")
    page.get_by_role("button", name="Pin", exact=True).click()
    page.get_by_text("Manifest 2: pin").wait_for()
    assert world.calls == [("rollback", "cats", "cats@v1-0123abcd"), ("pin", "cats", "None")]


def test_decisions_are_filtered_and_each_has_a_link(page: Any, url: str, asked: None) -> None:
    show(page, url, "decisions")
    page.get_by_label("Answered by").select_option("dogs")
    page.get_by_text("something else").first.wait_for(state="detached")
    assert set(page.locator("tbody tr td:nth-child(3)").all_inner_texts()) == {"dogs"}
    page.get_by_label("Answered by").select_option("")
    page.get_by_label("Left to the base").select_option("true")
    page.get_by_text("something else").first.wait_for()
    page.locator("tbody a").first.click()
    page.get_by_text("Left to the base: ").wait_for()
    link = page.url
    page.goto("about:blank")
    page.goto(link)
    page.get_by_text("something else").wait_for()


def test_the_map_shows_each_prompt_where_it_was_drawn(page: Any, url: str, asked: None) -> None:
    show(page, url, "map")
    told = page.get_by_role("img").get_attribute("aria-label")
    assert re.match(r"\d+ prompts over 2 domains; \d+ left to the base", told)
    drawn = "[...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 640, 640).data].some((v) => v)"
    assert page.evaluate(drawn)


def test_a_cell_of_the_matrix_opens_the_exam(page: Any, url: str) -> None:
    show(page, url, "accuracy")
    page.get_by_role("button", name="cats at manifest 1: 0.97").click()
    page.get_by_role("region", name="Exam of cats").get_by_text("say meow").wait_for()
    assert page.get_by_role("row", name=re.compile("^cats")).get_by_text("0.98").is_visible()


def test_all_of_it_is_reached_by_keyboard(page: Any, url: str) -> None:
    show(page, url, "")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.get_by_role("link", name="Domains", exact=True).focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Domains", level=1).wait_for()
    assert page.evaluate("document.activeElement.tagName") == "H1", "who does not see it is told of the new view"


def test_light_and_dark_are_kept(page: Any, url: str) -> None:
    show(page, url, "")
    before = page.evaluate("document.documentElement.dataset.theme")
    page.get_by_role("button", name="Dark").click()
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") != before


def test_with_keys_it_asks_for_one_and_keeps_it_in_the_tab(browser: Any, tmp_path: Path) -> None:
    with standing(tmp_path, World([published("cats")]), keys=True) as (url, key):
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(url)
        page.get_by_label("Key").fill("ab-0123456789ab-" + "0" * 64)
        page.get_by_role("button", name="Use it").click()
        page.get_by_role("heading", name="An access key is needed").wait_for()
        page.get_by_label("Key").fill(key)
        page.get_by_role("button", name="Use it").click()
        page.get_by_text("Nothing is failing.").wait_for()
        page.reload()
        page.get_by_text("Nothing is failing.").wait_for()
        assert key not in json.dumps(page.evaluate("Object.entries(localStorage)")) and key not in page.url
        other = context.new_page()
        other.set_default_timeout(PATIENCE_MS)
        other.goto(url)
        other.get_by_label("Key").wait_for()
        page.get_by_role("button", name="Forget key").click()
        page.get_by_role("heading", name="An access key is needed").wait_for()
        context.close()


def test_a_key_that_is_no_administrator_s_can_still_ask(browser: Any, tmp_path: Path) -> None:
    with standing(tmp_path, World([published("cats")]), keys=True, scopes=("infer",)) as (url, key):
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(url)
        page.get_by_label("Key").fill(key)
        page.get_by_role("button", name="Use it").click()
        page.get_by_text("This view is for a key of scope").wait_for()
        turn = ask(page, url, "meow")
        assert turn.get_by_role("heading", name="cats").is_visible()
        page.close()


def test_a_thousand_domains_stay_fluent(browser: Any, tmp_path: Path) -> None:
    """Of a thousand cards a change of one draws one anew, and what is out of sight is not laid out."""
    world = World([published(f"domain-{n:04}") for n in range(1000)])
    with standing(tmp_path, world) as (url, _):
        page = browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{url}/#/domains")
        page.get_by_text("1,000 of 1,000").wait_for()
        page.evaluate(
            """() => {
                window.drawn = new Set();
                new MutationObserver((changes) => changes.forEach((change) => {
                    const card = (change.target.closest ?? (() => null)).call(change.target, ".domain")
                        ?? change.target.parentElement?.closest(".domain");
                    if (card) window.drawn.add(card.getAttribute("aria-label"));
                })).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
            }"""
        )
        world.known["domain-0001"] = published("domain-0001", 501)
        page.get_by_role("article", name="domain-0001").get_by_text("501").wait_for()
        assert page.evaluate("[...window.drawn]") == ["domain-0001"]
        page.get_by_label("Name").fill("0999")
        page.get_by_text("1 of 1,000").wait_for()
        page.close()

"""The page as a person gets it: bytes and seconds until something is seen, what it costs open and idle, and how a
thousand domains move. Also takes the pictures of each view.

It opens Chromium on a running system (`anabranch demo --keep`), which should have asked and learned something by then.

    anabranch bench page --url http://127.0.0.1:8000 --pictures docs/pictures
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.hardware import describe
from serving.api import DomainEvent, DomainStatus, VersionStatus, Waiting
from serving.page import FOLDER

RESULTS = Path(__file__).parent / "results" / "page"
VIEWS = {
    "river": "",
    "domains": "domains",
    "ask": "ask",
    "feed": "feed",
    "accuracy": "accuracy",
    "decisions": "decisions",
    "map": "map",
    "publications": "publications",
}
_SIZE = {"width": 1200, "height": 750}
_IDLE_S = 30.0
_ROUNDS = 7


def main() -> None:
    """Measure, write `results/page/page.json`, and take pictures where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument(
        "--prompt", default="geboren am 4. Jan. 2029", help="what is asked in the picture of the playground"
    )
    parser.add_argument("--pictures", type=Path, help="folder for a picture of each view")
    parser.add_argument("--only-pictures", action="store_true", help="measure nothing")
    asked = parser.parse_args()
    with _chromium() as browser:
        if asked.pictures:
            _pictures(browser, asked.url, asked.prompt, asked.pictures)
        if asked.only_pictures:
            return
        result = {
            "hardware": describe(),
            "first_view_bytes": _first_view_bytes(),
            "all_bytes": sum(len(gzip.compress(path.read_bytes())) for path in (FOLDER / "assets").iterdir()),
            **_first_paint(browser, asked.url),
            **_idle(browser, asked.url),
            **_thousand(browser, asked.url),
        }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "page.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


@contextmanager
def _chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        raise SystemExit("expected Chromium here, found none; install the package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


def _first_view_bytes() -> int:
    """What is sent, packed, before anything is seen."""
    page = (FOLDER / "index.html").read_bytes()
    names = re.findall(r"/assets/([^\"]+)", page.decode())
    return sum(
        len(gzip.compress(each)) for each in [page, *((FOLDER / "assets" / name).read_bytes() for name in names)]
    )


def _first_paint(browser: Any, url: str) -> dict[str, float]:
    """Milliseconds from asking until something, and until the system's state, is seen; nothing is kept from before."""
    paints, states = [], []
    for _ in range(_ROUNDS):
        page = browser.new_context().new_page()
        page.goto(f"{url}/", wait_until="commit")
        page.get_by_role("heading", name="Replicas", exact=True).first.wait_for()
        states.append(page.evaluate("performance.now()"))
        paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        page.context.close()
    return {"first_paint_ms": statistics.median(paints), "state_seen_ms": statistics.median(states)}


def _idle(browser: Any, url: str) -> dict[str, float]:
    """Shares of a core that the browser, and what serves it, take more while the page is open and nothing happens."""
    servers = [each for each in psutil.process_iter(["cmdline"]) if _serves(each)]
    before = _cpu(servers, _IDLE_S)
    page = browser.new_context().new_page()
    page.goto(f"{url}/")
    page.get_by_role("heading", name="Replicas", exact=True).first.wait_for()
    time.sleep(15.0)
    browsers = [each for each in psutil.process_iter(["name"]) if "chrom" in (each.info["name"] or "")]
    began = {each.pid: sum(each.cpu_times()[:2]) for each in browsers}
    during = _cpu(servers, _IDLE_S)
    spent = sum(sum(each.cpu_times()[:2]) - began[each.pid] for each in browsers if each.is_running())
    page.context.close()
    return {
        "idle_browser_share": spent / _IDLE_S,
        "idle_servers_share_without": before,
        "idle_servers_share_with": during,
    }


def _serves(process: psutil.Process) -> bool:
    line = " ".join(process.info["cmdline"] or ())
    return any(word in line for word in ("ray::", "anabranch", "haproxy", "console.cli"))


def _cpu(processes: list[psutil.Process], seconds: float) -> float:
    began = {each.pid: sum(each.cpu_times()[:2]) for each in processes if each.is_running()}
    time.sleep(seconds)
    spent: float = sum(sum(each.cpu_times()[:2]) - began[each.pid] for each in processes if each.is_running())
    return spent / seconds


def _thousand(browser: Any, url: str) -> dict[str, float]:
    """Milliseconds between frames while a page of a thousand domains is scrolled from end to end."""
    event = DomainEvent(domains=tuple(_domain(f"domain-{n:04}") for n in range(1000)), gone=())
    told = f"event: domains\ndata: {event.model_dump_json()}\n\n"
    page = browser.new_context(viewport=_SIZE).new_page()
    answer = {"status": 200, "content_type": "text/event-stream", "body": told}
    page.route("**/v1/events", lambda route: route.fulfill(**answer))
    page.goto(f"{url}/#/domains")
    page.get_by_text("1,000 of 1,000").wait_for()
    gaps = page.evaluate(
        """() => new Promise((done) => {
            const gaps = [], height = document.documentElement.scrollHeight - innerHeight;
            let last = performance.now(), frame = 0;
            const next = (now) => {
                gaps.push(now - last);
                last = now;
                scrollTo(0, (height * ++frame) / 240);
                if (frame < 240) requestAnimationFrame(next); else done(gaps.slice(1));
            };
            requestAnimationFrame(next);
        })"""
    )
    page.context.close()
    ordered = sorted(gaps)
    return {
        "thousand_frame_ms_median": statistics.median(gaps),
        "thousand_frame_ms_p95": ordered[int(0.95 * len(ordered))],
        "thousand_frames_over_50_ms": float(sum(gap > 50 for gap in gaps)),
    }


def _domain(name: str) -> DomainStatus:
    version = VersionStatus(
        name=f"{name}@v1-0123abcd",
        status="accepted",
        reason="held-out loss 0.0100 beats the base's 0.4000",
        examples=500,
        figures={"candidate_exact_match": 0.97},
    )
    return DomainStatus(
        domain=name,
        state="published",
        version=version.name,
        examples=500,
        router_rows=450,
        waiting=Waiting(),
        versions=(version,),
    )


def _pictures(browser: Any, url: str, prompt: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    page = browser.new_context(viewport=_SIZE, color_scheme="light").new_page()
    for name, view in VIEWS.items():
        page.goto(f"{url}/#/{view}")
        page.get_by_text("live", exact=True).wait_for()
        if name == "ask":
            page.get_by_label("Prompt").fill(prompt)
            page.get_by_role("button", name="Ask", exact=True).click()
            page.get_by_text("Why").wait_for()
            page.get_by_role("button", name="The same by the base").click()
        time.sleep(2.5)
        page.screenshot(path=folder / f"page-{name}.png")
    page.context.close()


if __name__ == "__main__":
    main()

"""The command that watches a system: its status each second, drawn in place, until q or Ctrl-C."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from console.terminal import DEFAULT_URL, Url, one_line, out

if TYPE_CHECKING:
    from rich.console import RenderableType

    from console.client import Client
    from console.picture import Rates

PATIENCE_S = 5.0
"""How long one answer is waited for."""


def top(
    url: Url = DEFAULT_URL,
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds from one look to the next.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and fail where no service answers.")] = False,
) -> None:
    """Watch a system: stream, domains, replicas and what fails; q or Ctrl-C ends it.

    A service that is away is said, and looked for again. Where the output is no terminal, it is looked at once.
    """
    with one_line():
        from console.client import Client
        from console.picture import Rates, picture

        client = Client(url, patience_s=PATIENCE_S)
        if once or not out.is_terminal:
            out.print(picture(client.status(), Rates(), url))
            return
        try:
            # Whoever ends it finds the terminal as it was.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            _watch(client, url, interval)
        except KeyboardInterrupt:
            return


def _watch(client: Client, url: str, interval: float) -> None:
    from rich.live import Live

    from console.picture import Rates

    rates = Rates()
    last: RenderableType = ""
    with _keyboard() as pressed, Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            began = time.monotonic()
            shown, last = _looked(client, url, rates, last)
            live.update(shown, refresh=True)
            while (left := interval - (time.monotonic() - began)) > 0:
                if pressed(left) in ("q", "Q"):
                    return
            if pressed(0) in ("q", "Q"):
                return


def _looked(client: Client, url: str, rates: Rates, last: RenderableType) -> tuple[RenderableType, RenderableType]:
    """What to show now, and what was seen last: that stays under the words where no service answers."""
    from rich.console import Group
    from rich.text import Text

    from cluster.errors import ClusterError
    from console.picture import picture

    try:
        status = client.status()
    except ClusterError as error:
        when = time.strftime("%H:%M:%S")
        return Group(Text(f"{when}  {error}; looking again, q ends", style="red"), last), last
    rates.saw(status, time.monotonic())
    drawn = picture(status, rates, url, rows=max(3, out.size.height - 8 - len(status.replicas)))
    return drawn, drawn


@contextmanager
def _keyboard() -> Iterator[Callable[[float], str]]:
    """What waits so many seconds for a key and says which, none where none came; a closed keyboard is a q."""
    if not sys.stdin.isatty():

        def waited(seconds: float) -> str:
            time.sleep(seconds)
            return ""

        yield waited
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([keyboard], [], [], seconds)
        return (os.read(keyboard, 1).decode("latin-1") or "q") if ready else ""

    try:
        tty.setcbreak(keyboard)
        yield pressed
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)

"""What the commands share: where they print, options that several take, and bad input as one line, exit code 2."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from configs.settings import Settings
    from console.client import Client


def _console(*, stderr: bool = False) -> Console:
    """A console that prints words as they are, brackets and colons too, and cuts lines for a screen only."""
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNCUT
    return console


_UNCUT = 10_000
out = _console()
err = _console(stderr=True)

Sets = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a config key, e.g. a.b=c.")]
Url = Annotated[str, typer.Option("--url", envvar="ANABRANCH_URL", help="Where the front door answers.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Stream = Annotated[str | None, typer.Option(help="Override the stream of the config.")]
DEFAULT_URL = "http://127.0.0.1:8000"


def asked_to_stop() -> threading.Event:
    """What is set once the person or the system asks this process to end, from now on."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    return stopping


@contextmanager
def one_line() -> Iterator[None]:
    """Turn the errors of a user's making into one line and exit code 2."""
    from cluster.errors import ClusterError
    from configs.errors import ConfigError
    from learning.errors import LearningError
    from streaming.errors import StreamError

    try:
        yield
    except BrokenPipeError:
        raise  # Whoever reads the output has had enough of it.
    except (ClusterError, ConfigError, LearningError, StreamError, OSError, UnicodeError) as error:
        print(f"anabranch: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(2) from error


def load_checked(config: str, sets: list[str] | None) -> Settings:
    """The settings of a preset or file, checked: the paths that they name, and the GPUs' memory."""
    from configs.checks import check
    from configs.loader import load

    settings = load(config, sets or [])
    check(settings)
    return settings


def stream_overrides(stream: str | None) -> list[str]:
    """The overrides that put the stream at a location given on the command line."""
    if stream is None:
        return []
    from streaming.errors import StreamError
    from streaming.location import StreamLocation

    if stream.startswith("embedded:"):
        raise StreamError(f"--stream {stream}: a system's embedded stream lies in its home folder; set `home` instead")
    location = StreamLocation.parse(stream, path=Path("unused"))
    if location.kind == "embedded":
        return ["stream.kind=embedded", "stream.bootstrap=null"]
    return ["stream.kind=kafka", f'stream.bootstrap="{location.bootstrap}"', f"stream.topic={location.topic}"]


def client(url: str) -> Client:
    """A client of the front door at `url`."""
    from console.client import Client

    return Client(url)

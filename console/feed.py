"""The command that sends a data set into the stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from console.completion import presets
from console.terminal import DEFAULT_URL, Url, client, err, load_checked, one_line, out, stream_overrides

if TYPE_CHECKING:
    from streaming.feeding import Append, Feeding

CHEAP_BYTES = 64 << 20
"""Data sets up to this size are read as a whole before anything of them is sent."""


def _column(says: str, shown: str = "COLUMN") -> Any:
    return typer.Option(metavar=shown, rich_help_panel="Columns", help=says)


def feed(
    file: Annotated[Path, typer.Argument(help="JSONL, CSV or Parquet, or the folder of a data set.")],
    url: Url = DEFAULT_URL,
    stream: Annotated[
        str | None, typer.Option(help="Write to this stream (kafka://host:port/topic, embedded:PATH), not by HTTP.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            autocompletion=presets, help="Write to the stream of this preset or YAML file, with its security settings."
        ),
    ] = None,
    close: Annotated[bool, typer.Option(help="End each domain of the file with its marker.")] = True,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Pass over rows that can't be used; count them.")
    ] = False,
    input_column: Annotated[list[str], _column("The question; of several, joined by a blank line.")] = [],  # noqa: B006
    output_column: Annotated[str | None, _column("The answer.")] = None,
    domain_column: Annotated[str | None, _column("The domain.")] = None,
    domain: Annotated[str | None, _column("One domain for all rows.", "NAME")] = None,
    id_column: Annotated[str | None, _column("What names an example for good.")] = None,
) -> None:
    """Send a data set of examples into the stream.

    Columns are known by their names where none are given: prompt, messages, instruction with input, input or question;
    completion, output, answer or response; domain or task.
    """
    with one_line():
        from streaming.columns import Columns
        from streaming.errors import StreamError
        from streaming.feeding import Feeding
        from streaming.records import is_domain
        from streaming.rows import data_files

        if domain is not None and domain_column is not None:
            raise StreamError("--domain and --domain-column: expected one of them, got both")
        if domain is not None and not is_domain(domain):
            raise StreamError(f"--domain: expected a slug [a-z0-9][a-z0-9_-]{{0,62}} other than auto, got {domain!r}")
        columns = Columns(tuple(input_column), output_column, domain_column, domain, id_column)
        feeding = Feeding(data_files(file), columns, skip_bad)
        if not skip_bad and feeding.bytes <= CHEAP_BYTES:
            feeding.check()
        with _append_to(url, stream, config) as append:
            _send(feeding, append, close)
        for name, count in feeding.counts.items():
            out.print(f"{name}: {count} records" + (", closed" if close else ""))
        _say_refused(feeding)
        if not feeding.counts:
            raise StreamError(f"{file}: no row of it could be used")


def _send(feeding: Feeding, append: Append, close: bool) -> None:
    """Send with a bar for who watches; an end before the end says what had been sent."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    shown = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*shown, console=err, transient=True, disable=not err.is_terminal) as bars:
        bar = bars.add_task("feeding", total=feeding.bytes)

        def read(done: int) -> None:
            told = f"{feeding.counts.total()} records"
            if feeding.refused:
                told += f", {feeding.refused.total()} refused"
            bars.update(bar, completed=done, description=told)

        try:
            feeding.send(append, read, close=close)
        except BaseException:
            bars.stop()
            sent = feeding.counts.total()
            if sent:
                err.print(f"{sent} records were sent before; sent again, those count once", soft_wrap=True)
            raise


def _say_refused(feeding: Feeding) -> None:
    if feeding.refused:
        reasons = ", ".join(f"{reason} {count}" for reason, count in feeding.refused.most_common())
        err.print(f"refused {feeding.refused.total()} rows: {reasons}", soft_wrap=True)
        err.print(f"the first: {feeding.first_refused}", soft_wrap=True)


@contextmanager
def _append_to(url: str, stream: str | None, config: str | None) -> Iterator[Append]:
    """What takes records: the stream of a config, a stream named directly, or the front door."""
    if config is None and stream is None:
        yield client(url).append
        return
    if config is not None:
        from cluster import builders

        sink = builders.sink(load_checked(config, stream_overrides(stream)))
    else:
        from streaming.location import StreamLocation, open_sink

        sink = open_sink(StreamLocation.parse(stream or ""))
    try:
        yield sink.append_all
    finally:
        sink.close()

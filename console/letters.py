"""The commands on dead letters: list them, put them back into the stream."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from console.completion import presets
from console.terminal import AsJson, Sets, Stream, load_checked, one_line, out, stream_overrides

if TYPE_CHECKING:
    from configs.settings import Settings
    from streaming.dead_letters import DeadLetters

letters_app = typer.Typer(help="Records that could not be read.", no_args_is_help=True)

Config = Annotated[str, typer.Option(autocompletion=presets, help="Preset or YAML file of the system.")]


@letters_app.command("list")
def letters_list(config: Config = "demo", stream: Stream = None, set_: Sets = [], as_json: AsJson = False) -> None:  # noqa: B006
    """List the dead letters with their reasons."""
    with _letters(config, list(set_), stream) as (letters, _):
        for letter in letters.list():
            if as_json:
                origin = {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset}
                cut = {
                    "original_bytes": letter.original_bytes,
                    "original_key_bytes": letter.original_key_bytes,
                    "original_headers": letter.original_headers,
                }
                print(json.dumps({"reason": letter.reason, "detail": letter.detail, **origin, **cut}))
            else:
                print(letter)


@letters_app.command("replay")
def letters_replay(config: Config = "demo", stream: Stream = None, set_: Sets = []) -> None:  # noqa: B006
    """Put the dead letters back into the stream, for example after raising a limit; exit code 1 if some stay."""
    with _letters(config, list(set_), stream) as (letters, settings):
        from cluster import builders

        sink = builders.sink(settings)
        try:
            result = letters.replay(sink)
        finally:
            sink.close()
        out.print(f"{result.replayed} records replayed")
        for unsent in result.unsent:
            print(unsent, file=sys.stderr)
        if result.unsent:
            raise typer.Exit(1)


@contextmanager
def _letters(config: str, sets: list[str], stream: str | None) -> Iterator[tuple[DeadLetters, Settings]]:
    """The dead letters of a system and its settings; closed afterwards."""
    with one_line():
        from cluster import builders

        settings = load_checked(config, [*stream_overrides(stream), *sets])
        letters = builders.dead_letters(settings)
        try:
            yield letters, settings
        finally:
            letters.close()

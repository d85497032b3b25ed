"""The commands on a home folder: check it, back it up, and what a person may decide about one that lies still."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.completion import presets
from console.terminal import Sets, one_line, out

if TYPE_CHECKING:
    from cluster.home import Home

home_app = typer.Typer(help="Check a home folder, back it up, go back, read again.", no_args_is_help=True)

Place = Annotated[
    str,
    typer.Argument(
        metavar="HOME", autocompletion=presets, help="Home folder, or the preset or YAML file that names it."
    ),
]


@home_app.command("check")
def home_check(home: Place, set_: Sets = []) -> None:  # noqa: B006
    """Read and verify everything in it; exit code 1 if something is wrong."""
    with one_line():
        there, wrong = named_home(home, set_).check()
        for line in there:
            out.print(line)
        _say(wrong)


@home_app.command("backup")
def home_backup(
    home: Place,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    registry: Annotated[
        str | None, typer.Option(metavar="URL", help="An empty bucket or prefix for the registry's copy; default: DIR.")
    ] = None,
    set_: Sets = [],  # noqa: B006
) -> None:
    """Copy it, also while the system runs; exit code 1 if something is wrong with it.

    Start on the copy with `anabranch up CONFIG --set home=DIR`, and `--set registry.url=URL` or `registry.url=null`.
    """
    with one_line():
        wrong = named_home(home, set_).backup(folder, registry)
        where = f"{folder} and {registry}" if registry else str(folder)
        out.print(f"backed up to {where}; spools are left out, they are read again from the stream")
        _say(wrong)


@home_app.command("back")
def home_back(
    home: Place,
    to: Annotated[int | None, typer.Option(help="Number of the snapshot; default: the newest whole one.")] = None,
    set_: Sets = [],  # noqa: B006
) -> None:
    """Put an earlier snapshot in force, on purpose, and say what is lost by it."""
    with one_line():
        for line in named_home(home, set_).go_back(to):
            out.print(line)
        out.print(
            "spools that were led after a later snapshot are refused at the start: "
            "`anabranch home reread` on each node lets them be read again"
        )


@home_app.command("reread")
def home_reread(home: Place, set_: Sets = []) -> None:  # noqa: B006
    """Delete this node's spools: what waits in them is read again from the stream."""
    with one_line():
        for path in (dropped := named_home(home, set_).reread()):
            out.print(f"deleted {path}")
        out.print(f"{len(dropped)} files of spools deleted")


@home_app.command("take-log")
def home_take_log(home: Place, topic: str, set_: Sets = []) -> None:  # noqa: B006
    """Accept that another log stands under a topic's name, which is then read from its beginning."""
    with one_line():
        for line in named_home(home, set_).take_log(topic):
            out.print(line)


def _say(wrong: list[str]) -> None:
    """Print what is wrong, and end with exit code 1 if anything is."""
    for line in wrong:
        print(line, file=sys.stderr)
    out.print(f"{len(wrong)} faults" if wrong else "all is well")
    if wrong:
        raise typer.Exit(1)


def named_home(name: str, sets: list[str]) -> Home:
    """The home in a folder, or the one that a preset or file names."""
    from cluster.home import Home
    from configs.loader import load, presets

    folder = Path(name).expanduser()
    if name not in presets() and folder.is_dir() and not sets:
        return Home(folder.absolute())
    settings = load(name, list(sets))
    return Home(settings.home, settings.ingest.spool_folder, settings.registry.url)

"""The commands on adapters: one made elsewhere is added, those that there are are listed, exported, merged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.completion import domains, presets
from console.home import named_home
from console.terminal import DEFAULT_URL, Sets, Url, client, err, load_checked, one_line, out

if TYPE_CHECKING:
    from streaming.records import EndOfDomain, TaskRecord

adapters_app = typer.Typer(help="Add an adapter made elsewhere, list, export and merge versions.", no_args_is_help=True)

Place = Annotated[
    str, typer.Option("--home", autocompletion=presets, help="Home folder, or the preset or YAML file that names it.")
]
Version = Annotated[str, typer.Argument(help="Full name of a version, or a domain for the one in service.")]
Target = Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")]


@adapters_app.command("add")
def adapters_add(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A PEFT folder: LoRA, as safetensors.")],
    domain: Annotated[str, typer.Option(autocompletion=domains, help="The domain that it is to answer for.")],
    config: Annotated[str, typer.Option(autocompletion=presets, help="Preset or YAML file of the running system.")],
    examples: Annotated[
        Path | None, typer.Option(help="JSONL of examples of the domain: it is judged and routed to by them.")
    ] = None,
    note: Annotated[str, typer.Option("--version-note", help="Words that are kept with the version.")] = "",
    url: Url = DEFAULT_URL,
    set_: Sets = [],  # noqa: B006
) -> None:
    """Check an adapter made elsewhere and have it judged as the domain's next version, in the place of a training.

    Without examples it waits until the domain's next ones are complete. The same again does no harm.
    """
    with one_line():
        from cluster.builders import upload_adapter

        records = _examples(examples, domain)
        name, notes = upload_adapter(load_checked(config, list(set_)), folder, domain)
        for each in notes:
            err.print(each, soft_wrap=True)
        asked = client(url)
        out.print(asked.add_adapter(domain, name, note).reason)
        if records:
            asked.append(records)
            out.print(f"{domain}: {len(records) - 1} examples sent, closed; see `anabranch domains show {domain}`")


def _examples(file: Path | None, domain: str) -> list[TaskRecord | EndOfDomain]:
    """The file's examples, of the domain all of them, and its end behind them."""
    from cluster.errors import ClusterError
    from streaming.feeding import counts
    from streaming.records import TaskRecord, from_mapping, read_jsonl

    end = from_mapping({"kind": "end_of_domain", "domain": domain})
    if file is None:
        return []
    if not file.is_file():
        raise ClusterError(f"{file}: expected a JSONL file, got nothing there; check the path")
    records = [each for each in read_jsonl(file) if isinstance(each, TaskRecord)]
    if others := sorted(counts(records).keys() - {domain, ""}):
        raise ClusterError(f"{file}: expected examples of {domain}, got some of {', '.join(others)}; leave those out")
    if not records:
        raise ClusterError(f"{file}: expected examples, got none")
    return [*(each.model_copy(update={"domain": domain}) for each in records), end]


@adapters_app.command("list")
def adapters_list(home: Place, set_: Sets = []) -> None:  # noqa: B006
    """List the versions in a registry, and the adapters made elsewhere that wait or were refused."""
    with one_line():
        from rich.table import Table

        from console.versions import listed

        lines, offers, damaged = listed(named_home(home, set_))
        table = Table("version", "status", "origin", "in service", "rank", "norm", "the gate's words")
        for each in lines:
            norm = "-" if each.norm is None else f"{each.norm:.4g}"
            served = "yes" if each.in_service else ""
            table.add_row(each.name, each.status, each.origin, served, str(each.rank), norm, each.reason)
        for offer in offers:
            table.add_row(
                offer.name, offer.state, "offered", "", "", "", "; ".join(filter(None, [offer.reason, offer.note]))
            )
        out.print(table)
        for name, what in damaged.items():
            err.print(f"{name}: {what}", soft_wrap=True)


@adapters_app.command("export")
def adapters_export(version: Version, target: Target, home: Place, set_: Sets = []) -> None:  # noqa: B006
    """Write a version as a plain PEFT folder."""
    with one_line():
        from console.versions import export

        out.print(f"{export(named_home(home, set_), version, target)}: exported to {target}")


@adapters_app.command("merge")
def adapters_merge(
    version: Version,
    target: Target,
    home: Place,
    base: Annotated[str | None, typer.Option(help="Where the base model lies; default: as it was published.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; default: as the base is stored.")
    ] = None,
    set_: Sets = [],  # noqa: B006
) -> None:
    """Write a version and its base as one model in the Hugging Face layout."""
    with one_line():
        from cluster.errors import ClusterError
        from console.versions import merge

        if dtype not in (None, "float32", "bfloat16", "float16"):
            raise ClusterError(f"--dtype: expected float32, bfloat16 or float16, got {dtype!r}")
        out.print(f"{merge(named_home(home, set_), version, target, base, dtype)}: merged into {target}")

"""The commands that ask a running service: its status, its routing, its domains, a conversation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from console.completion import domains, models
from console.domain import print_domain
from console.terminal import DEFAULT_URL, AsJson, Url, client, err, one_line, out

if TYPE_CHECKING:
    from serving.api import DomainStatus

domains_app = typer.Typer(help="Look at the domains and change what is served.", no_args_is_help=True)

Domain = Annotated[str, typer.Argument(autocompletion=domains)]
Version = Annotated[str | None, typer.Option("--version", help="Full version name; default: see the command.")]


def status(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show what is served, learned and waiting, and everything that is failing."""
    with one_line():
        found = client(url).status()
        if as_json:
            print(found.model_dump_json())
            return
        out.print(f"manifest {found.manifest}, replicas {len(found.replicas)}")
        for name, replica in found.replicas.items():
            if replica.manifest < found.manifest:
                out.print(f"{name}: serves manifest {replica.manifest}, for {replica.lag_seconds:.0f} s")
        _print_domains(found.domains)
        if (recovering := found.recovering()) is not None:
            err.print(recovering, soft_wrap=True, highlight=False, markup=False)
        for who, what in found.troubles():
            err.print(Text.assemble(("trouble:", "red"), f" {who}: {what}"), soft_wrap=True)


def route(text: str, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Say which domain a text would be answered by, or why none, without generating."""
    with one_line():
        decision = client(url).route(text)
        if as_json:
            print(decision.model_dump_json())
            return
        score = "" if decision.score is None else f"  score {decision.score:.3f}"
        out.print(f"{decision.domain}  {decision.adapter}{score}")
        if decision.abstained:
            out.print(f"left to the base: {decision.abstained}")


def chat(
    url: Url = DEFAULT_URL,
    model: Annotated[str, typer.Option(autocompletion=models, help="auto, base, a domain or version.")] = "auto",
) -> None:
    """Talk to the service; an empty line ends it."""
    with one_line():
        from cluster.errors import ClusterError

        asked = client(url)
        while True:
            try:
                text = input("> ")
            except EOFError:
                return
            if not text:
                return
            try:
                for piece in asked.stream_chat(model, text):
                    print(piece, end="", flush=True)
            except ClusterError:
                print()
                raise
            why = f", {asked.last_abstained}" if asked.last_abstained else ""
            print(f"   [{asked.last_adapter}{why}]")


def ui(url: Url = DEFAULT_URL) -> None:
    """Open the service's page in a browser."""
    with one_line():
        import webbrowser

        from cluster.errors import ClusterError

        address = client(url).page()
        out.print(address)
        if not webbrowser.open(address):
            raise ClusterError("no browser to be opened here: open the address above in one")


@domains_app.command("list")
def domains_list(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the domains."""
    with one_line():
        found = client(url).domains()
        if as_json:
            print(json.dumps([domain.model_dump(mode="json") for domain in found]))
        else:
            _print_domains(found)


@domains_app.command("show")
def domains_show(domain: Domain, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show one domain: its segments and versions with their figures and the gate's words, and what was lost of it."""
    with one_line():
        from cluster.errors import ClusterError

        found = [each for each in client(url).domains() if each.domain == domain]
        if not found:
            raise ClusterError(f"domain {domain!r} is not known; see `anabranch domains list`")
        if as_json:
            print(found[0].model_dump_json())
        else:
            print_domain(found[0])
        for each in found[0].lost:
            where = f"{each.partition}, offsets {each.first} to {each.last}"
            err.print(f"lost: {each.rows} examples in {where}; send them again under the same ids", soft_wrap=True)


@domains_app.command("remove")
def domains_remove(domain: Domain, url: Url = DEFAULT_URL) -> None:
    """Take a domain out of service and out of the router, exactly."""
    _command("remove", domain, None, url)


@domains_app.command("rollback")
def domains_rollback(domain: Domain, version: Version = None, url: Url = DEFAULT_URL) -> None:
    """Serve an earlier version (default: the accepted one before) and pin it."""
    _command("rollback", domain, version, url)


@domains_app.command("pin")
def domains_pin(
    domain: Domain,
    version: Version = None,
    off: Annotated[bool, typer.Option("--off", help="Clear the pin.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Keep a version in service (default: the present one) whatever is learned later."""
    _command("unpin" if off else "pin", domain, version, url)


@domains_app.command("learn")
def domains_learn(domain: Domain, url: Url = DEFAULT_URL) -> None:
    """Learn what waits of a domain next: ends its rest after a rejection, and closes it where it is open."""
    _command("learn", domain, None, url)


def _command(name: str, domain: str, version: str | None, url: str) -> None:
    with one_line():
        result = client(url).command(name, domain, version)
        out.print(f"manifest {result.manifest}: {result.reason}")


def _print_domains(domains: Sequence[DomainStatus]) -> None:
    table = Table("domain", "state", "version", "examples", "waiting", "detail")
    for each in domains:
        state: str = each.state
        if each.progress:
            resumed = f", on from {each.progress.resumed_from}" if each.progress.resumed_from else ""
            state = f"{state} {each.progress.step}/{each.progress.steps}{resumed}"
        waiting = each.waiting.train + each.waiting.held_out
        pinned = " (pinned)" if each.pinned else ""
        detail = each.detail if each.state in ("failed", "rejected") else ""
        table.add_row(each.domain, state, (each.version or "-") + pinned, str(each.examples), str(waiting), detail)
    out.print(table)

"""The commands on access keys: through a running system, or with --config at its registry itself, as for the first one.

Where a key is sent, it comes from ANABRANCH_API_KEY; it is never taken from the command line.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Table

from console.completion import presets
from console.terminal import DEFAULT_URL, AsJson, Sets, Url, client, err, one_line, out

if TYPE_CHECKING:
    from configs.settings import Settings
    from registry.storage import Storage
    from serving.key_bodies import AuditAct, KeyMade, KeyStatus

T = TypeVar("T")

keys_app = typer.Typer(help="Who may use the service: make, list, revoke and rotate keys.", no_args_is_help=True)

Config = Annotated[
    str | None,
    typer.Option(autocompletion=presets, help="Work on the registry of this preset or YAML file itself, not by HTTP."),
]
Key = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keys list` shows it.")]


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Option(help="For people.")],
    scope: Annotated[list[str], typer.Option(help="infer, ingest or admin; may be repeated.")] = ["infer"],  # noqa: B006
    domain: Annotated[
        list[str], typer.Option(help="A domain that it is for, or base; may be repeated. Default: all.")
    ] = [],  # noqa: B006
    days: Annotated[float | None, typer.Option(min=0.0, help="Days after which it expires.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Requests in any 60 seconds.")] = None,
    tokens_per_day: Annotated[int | None, typer.Option(help="Tokens of prompts and answers in a day of UTC.")] = None,
    config: Config = None,
    set_: Sets = [],  # noqa: B006
    url: Url = DEFAULT_URL,
) -> None:
    """Make a key and print it, once: only its digest is kept."""
    with one_line():
        from pydantic import ValidationError

        from cluster.errors import ClusterError
        from registry.keys import Grant, KeyStore
        from serving.key_bodies import KeyMade, KeyStatus

        try:
            expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
            grant = Grant(
                name=name,
                scopes=tuple(scope),
                domains=tuple(domain) or None,
                expires_at=expires,
                requests_per_minute=requests_per_minute,
                tokens_per_day=tokens_per_day,
            )
        except (ValidationError, OverflowError) as error:
            if isinstance(error, OverflowError):
                raise ClusterError(f"--days {days:g}: expected a date that there is; leave it out for none") from error
            fault = error.errors(include_url=False)[0]
            raise ClusterError(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}") from error

        def create(storage: Storage) -> KeyMade:
            key, text = KeyStore(storage).create(grant)
            return KeyMade(key=KeyStatus.of(key, datetime.now(UTC)), api_key=text)

        words = f"keys create for {','.join(grant.scopes)}"
        if config is None:
            _print_made(client(url).create_key(grant))
        else:
            _print_made(_at_the_registry(config, set_, words, create, lambda made: f"key {made.key.id}"))


@keys_app.command("list")
def keys_list(config: Config = None, set_: Sets = [], url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:  # noqa: B006
    """List the keys, and what each is for."""
    with one_line():
        from registry.keys import KeyStore
        from serving.key_bodies import KeyStatus

        now = datetime.now(UTC)
        if config is None:
            found: Sequence[KeyStatus] = client(url).keys()
        else:
            found = [
                KeyStatus.of(key, now) for key in _at_the_registry(config, set_, None, lambda s: KeyStore(s).read())
            ]
        if as_json:
            print(json.dumps([each.model_dump(mode="json") for each in found]))
            return
        table = Table("id", "name", "state", "scopes", "domains", "a minute", "tokens a day", "expires")
        for each in found:
            bounds = [str(bound or "-") for bound in (each.requests_per_minute, each.tokens_per_day)]
            domains = "all" if each.domains is None else ", ".join(each.domains)
            expires = f"{each.expires_at:%Y-%m-%d %H:%M}" if each.expires_at else "-"
            table.add_row(each.id, each.name, each.state, ", ".join(each.scopes), domains, *bounds, expires)
        out.print(table)


@keys_app.command("revoke")
def keys_revoke(key: Key, config: Config = None, set_: Sets = [], url: Url = DEFAULT_URL) -> None:  # noqa: B006
    """Let a key open nothing any more: within five seconds on every replica."""
    with one_line():
        from registry.keys import KeyStore

        if config is None:
            client(url).revoke_key(key)
        else:
            _at_the_registry(config, set_, f"keys revoke {key}", lambda storage: KeyStore(storage).revoke(key))
        out.print(f"{key} opens nothing any more")


@keys_app.command("rotate")
def keys_rotate(
    key: Key,
    overlap: Annotated[float, typer.Option(min=0.0, max=720.0, help="Hours for which the old one works on.")] = 24.0,
    config: Config = None,
    set_: Sets = [],  # noqa: B006
    url: Url = DEFAULT_URL,
) -> None:
    """Give a key a new secret and print it, once; the old one works on for a while."""
    with one_line():
        from registry.keys import KeyStore
        from serving.key_bodies import KeyMade, KeyStatus

        def rotate(storage: Storage) -> KeyMade:
            rotated, text = KeyStore(storage).rotate(key, timedelta(hours=overlap))
            return KeyMade(key=KeyStatus.of(rotated, datetime.now(UTC)), api_key=text)

        if config is None:
            _print_made(client(url).rotate_key(key, 3600.0 * overlap))
        else:
            _print_made(_at_the_registry(config, set_, f"keys rotate {key}", rotate))


@keys_app.command("audit")
def keys_audit(
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many acts.")] = 50,
    config: Config = None,
    set_: Sets = [],  # noqa: B006
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Show what administrators have done, the newest first."""
    with one_line():
        from registry.audit import AuditLog
        from serving.key_bodies import AuditAct

        if config is None:
            acts: Sequence[AuditAct] = client(url).audit(count)
        else:
            found = _at_the_registry(config, set_, None, lambda storage: list(AuditLog(storage).newest(count)))
            acts = [AuditAct.of(act) for act in found]
        for act in acts:
            line = f"{act.at:%Y-%m-%d %H:%M:%S}  {act.who}  {act.what}  {act.outcome or 'outcome unknown'}"
            print(act.model_dump_json() if as_json else line)


def first_steps(settings: Settings, config: str) -> list[str]:
    """What to tell whoever starts a system: how to make the first key, or that nobody is asked for one."""
    from cluster import builders
    from registry.errors import RegistryError
    from registry.keys import KeyStore
    from serving.key_bodies import KeyStatus

    serving = settings.serving
    if not serving.keys_required:
        if serving.is_public:
            return [f"keys are off (serving.access.keys): whoever reaches {serving.host} may do everything"]
        return []
    try:
        keys = KeyStore(builders.storage(settings)).read()
    except RegistryError as error:
        return [f"every request needs a key, and they can't be read: {error}"]
    if any(KeyStatus.of(key, datetime.now(UTC)).state == "valid" for key in keys):
        return []
    return [
        "every request needs a key, and there is none; make the first, with the same --set options:",
        f"  anabranch keys create --config {config} --name first --scope admin --scope infer --scope ingest",
    ]


def _at_the_registry(
    config: str,
    sets: Sequence[str],
    act: str | None,
    work: Callable[[Storage], T],
    told: Callable[[T], str] = lambda _: "done",
) -> T:
    """What `work` gives on a system's registry, recorded as an act where it is one."""
    from cluster.home import registry_of
    from configs.loader import load
    from registry.audit import AuditLog
    from registry.errors import RegistryError

    with registry_of(load(config, list(sets))) as storage:
        if act is None:
            return work(storage)
        log = AuditLog(storage)
        begun = log.begin(f"console {_user()}", act)
        try:
            done = work(storage)
        except RegistryError:
            log.end(begun, "refused")
            raise
        log.end(begun, told(done))
        return done


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _print_made(made: KeyMade) -> None:
    err.print(f"key {made.key.id} ({made.key.name}); it is shown this once:")
    print(made.api_key)

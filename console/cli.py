"""The `anabranch` command. What takes long to import is imported inside the command that needs it.

Every command that meets bad input prints one line and exits with code 2.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(
    name="anabranch",
    help="A live LLM service that learns new domains from a stream, without forgetting and without replaying old data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
domains_app = typer.Typer(help="Look at the domains and change what is served.", no_args_is_help=True)
config_app = typer.Typer(help="Show or check a configuration.", no_args_is_help=True)
letters_app = typer.Typer(help="Records that could not be read.", no_args_is_help=True)
app.add_typer(domains_app, name="domains")
app.add_typer(config_app, name="config")
app.add_typer(letters_app, name="dead-letters")

out = Console()
err = Console(stderr=True)

Sets = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a config key, e.g. a.b=c.")]
Url = Annotated[str, typer.Option("--url", envvar="ANABRANCH_URL", help="Where the front door answers.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_URL = "http://127.0.0.1:8000"


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn the errors of a user's making into one line and exit code 2."""
    from cluster.errors import ClusterError
    from configs.errors import ConfigError
    from streaming.errors import StreamError

    try:
        yield
    except (ClusterError, ConfigError, StreamError, FileNotFoundError) as error:
        print(f"anabranch: {' '.join(str(error).split())}", file=sys.stderr)
        raise typer.Exit(2) from error


def _load(config: str, sets: list[str] | None) -> Any:
    """Load and check a configuration, before anything heavy is imported."""
    from configs.checks import check_paths
    from configs.loader import load

    settings = load(config, sets or [])
    check_paths(settings)
    return settings


def _client(url: str) -> Any:
    from console.client import Client

    return Client(url)


# -- running ----------------------------------------------------------------------------------------------------------


@app.command()
def demo(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path("runs/demo"),
    stream: Annotated[
        str, typer.Option(help="embedded, kafka (starts a development broker) or kafka://host:port/topic.")
    ] = "embedded",
    domains: Annotated[int, typer.Option(min=1, max=9, help="How many of the example domains to feed.")] = 6,
    config: Annotated[str, typer.Option(help="Preset or YAML file.")] = "demo",
    set_: Sets = [],  # noqa: B006 - typer reads the default, nobody changes it
) -> None:
    """Stream the example domains into a live system while a client keeps asking; write a report."""
    with _one_line():
        from console.demo import run_demo

        run_demo(config, list(set_), out_dir, stream, domains, out)


@app.command()
def up(
    config: Annotated[str, typer.Argument(help="Preset or YAML file.")],
    stream: Annotated[
        str | None, typer.Option(help="Override the stream: embedded or kafka://host:port/topic.")
    ] = None,
    set_: Sets = [],  # noqa: B006
) -> None:
    """Start the system and serve until interrupted."""
    with _one_line():
        settings = _load(config, [*_stream_overrides(stream), *set_])
        from cluster.runtime import Runtime

        stopping = threading.Event()
        runtime = Runtime(settings)
        with out.status(f"starting {settings.name}"):
            runtime.start()
        # Only now: Ray puts handlers of its own in place when it starts.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stopping.set())
        try:
            out.print(f"ready: {runtime.url}/v1  (home {settings.home}); Ctrl-C stops it")
            stopping.wait()
        finally:
            with out.status("stopping"):
                runtime.stop()


def _stream_overrides(stream: str | None) -> list[str]:
    """Return the overrides that put the stream at a location given on the command line."""
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


@app.command()
def feed(
    file: Annotated[Path, typer.Argument(help="JSONL of records, or of {task, input, output} rows.")],
    url: Url = DEFAULT_URL,
    stream: Annotated[
        str | None, typer.Option(help="Write to this stream (kafka://host:port/topic, embedded:PATH), not by HTTP.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="Write to the stream of this preset or YAML file, with its security settings.")
    ] = None,
    close: Annotated[bool, typer.Option(help="End each domain of the file with its marker.")] = True,
) -> None:
    """Send a file of examples into the stream."""
    with _one_line():
        from streaming.feeding import counts, labelled_records

        records = labelled_records(file, close=close)
        _send(records, url, stream, config)
        for domain, count in counts(records).items():
            out.print(f"{domain}: {count} records" + (", closed" if close else ""))


def _send(records: list[Any], url: str, stream: str | None, config: str | None) -> None:
    """Send to the stream of a config, to a stream named directly, or to the front door."""
    from streaming.feeding import append_all

    if config is not None:
        from cluster import builders

        append_all(builders.sink(_load(config, _stream_overrides(stream))), records)
    elif stream is not None:
        from streaming.location import StreamLocation, open_sink

        append_all(open_sink(StreamLocation.parse(stream)), records)
    else:
        from console.feeding import post_all

        post_all(_client(url), records)


@app.command()
def status(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show what is served, learned and waiting."""
    with _one_line():
        found = _client(url).get("/v1/status")
        if as_json:
            print(json.dumps(found))
            return
        out.print(f"manifest {found['manifest']}, replicas {len(found['replicas'])}")
        _print_domains(found["domains"])
        for trouble in [found.get("trouble"), *(t for i in found["ingest"] for t in i["trouble"].values())]:
            if trouble:
                err.print(f"[red]trouble:[/red] {trouble}")


# -- asking -----------------------------------------------------------------------------------------------------------


@app.command()
def route(text: str, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Say which domain a text would be answered by, without generating."""
    with _one_line():
        message = {"messages": [{"role": "user", "content": text}]}
        decision = _client(url).post("/v1/route", message)["decisions"][0]
        if as_json:
            print(json.dumps(decision))
            return
        score = "" if decision["score"] is None else f"  score {decision['score']:.3f}"
        out.print(f"{decision['domain']}  {decision['adapter']}{score}")


@app.command()
def chat(
    url: Url = DEFAULT_URL, model: Annotated[str, typer.Option(help="auto, base, a domain or version.")] = "auto"
) -> None:
    """Talk to the service; an empty line ends it."""
    with _one_line():
        client = _client(url)
        while True:
            try:
                text = input("> ")
            except EOFError:
                return
            if not text:
                return
            for piece in client.stream_chat(model, text):
                print(piece, end="", flush=True)
            print(f"   [{client.last_adapter}]")


# -- domains ----------------------------------------------------------------------------------------------------------


@domains_app.command("list")
def domains_list(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """List the domains."""
    with _one_line():
        found = _client(url).get("/v1/domains")["domains"]
        if as_json:
            print(json.dumps(found))
        else:
            _print_domains(found)


@domains_app.command("show")
def domains_show(domain: str, url: Url = DEFAULT_URL) -> None:
    """Show one domain with the figures of its versions."""
    with _one_line():
        from cluster.errors import ClusterError

        found = [d for d in _client(url).get("/v1/domains")["domains"] if d["domain"] == domain]
        if not found:
            raise ClusterError(f"domain {domain!r} is not known; see `anabranch domains list`")
        out.print_json(data=found[0])


def _command(path: str, body: dict[str, Any] | None, url: str, verb: str = "post") -> None:
    with _one_line():
        answer: dict[str, Any] = _client(url).send(verb, path, body)
        out.print(f"manifest {answer['manifest']}: {answer['reason']}")


Version = Annotated[str | None, typer.Option("--version", help="Full version name; default: see the command.")]


@domains_app.command("remove")
def domains_remove(domain: str, url: Url = DEFAULT_URL) -> None:
    """Take a domain out of service and out of the router, exactly."""
    _command(f"/v1/domains/{domain}", None, url, "delete")


@domains_app.command("rollback")
def domains_rollback(domain: str, version: Version = None, url: Url = DEFAULT_URL) -> None:
    """Serve an earlier version (default: the accepted one before) and pin it."""
    _command(f"/v1/domains/{domain}/rollback", {"version": version}, url)


@domains_app.command("pin")
def domains_pin(
    domain: str,
    version: Version = None,
    off: Annotated[bool, typer.Option("--off", help="Clear the pin.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Keep a version in service (default: the present one) whatever is learned later."""
    _command(f"/v1/domains/{domain}/{'unpin' if off else 'pin'}", {} if off else {"version": version}, url)


def _print_domains(domains: list[dict[str, Any]]) -> None:
    table = Table("domain", "state", "version", "examples", "waiting", "detail")
    for d in domains:
        progress = d["progress"]
        state = f"{d['state']} {progress['step']}/{progress['steps']}" if progress else d["state"]
        waiting = d["waiting"]["train"] + d["waiting"]["held_out"]
        pinned = " (pinned)" if d["pinned"] else ""
        detail = d["detail"] if d["state"] in ("failed", "rejected") else ""
        table.add_row(d["domain"], state, (d["version"] or "-") + pinned, str(d["examples"]), str(waiting), detail)
    out.print(table)


# -- configuration, dead letters, benchmarks --------------------------------------------------------------------------


@config_app.command("show")
def config_show(config: str, set_: Sets = []) -> None:  # noqa: B006
    """Print the whole configuration, defaults included, as YAML."""
    with _one_line():
        import yaml

        print(yaml.safe_dump(_load(config, list(set_)).model_dump(mode="json"), sort_keys=False), end="")


@config_app.command("validate")
def config_validate(config: str, set_: Sets = []) -> None:  # noqa: B006
    """Check a configuration and the paths it names."""
    with _one_line():
        settings = _load(config, list(set_))
        out.print(f"{config}: valid ({settings.name})")


def _with_letters(config: str, sets: list[str], stream: str | None, use: Callable[[Any, Any], None]) -> None:
    with _one_line():
        from cluster import builders

        settings = _load(config, [*_stream_overrides(stream), *sets])
        letters = builders.dead_letters(settings)
        try:
            use(letters, settings)
        finally:
            letters.close()


Config = Annotated[str, typer.Option(help="Preset or YAML file of the system.")]
Stream = Annotated[str | None, typer.Option(help="Override the stream of the config.")]


@letters_app.command("list")
def letters_list(config: Config = "demo", stream: Stream = None, set_: Sets = [], as_json: AsJson = False) -> None:  # noqa: B006
    """List the dead letters with their reasons."""

    def show(letters: Any, _: Any) -> None:
        for letter in letters.list():
            if as_json:
                origin = {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset}
                print(json.dumps({"reason": letter.reason, "detail": letter.detail, **origin}))
            else:
                print(letter)

    _with_letters(config, list(set_), stream, show)


@letters_app.command("replay")
def letters_replay(config: Config = "demo", stream: Stream = None, set_: Sets = []) -> None:  # noqa: B006
    """Put the dead letters back into the stream, for example after raising a limit."""

    def replay(letters: Any, settings: Any) -> None:
        from cluster import builders

        sink = builders.sink(settings)
        try:
            out.print(f"{letters.replay(sink)} records replayed")
        finally:
            sink.close()

    _with_letters(config, list(set_), stream, replay)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(context: typer.Context, name: Annotated[str, typer.Argument(help="Name of a file in benchmarks/.")]) -> None:
    """Run a benchmark; what follows the name is handed to it."""
    with _one_line():
        import importlib.util
        import runpy

        from cluster.errors import ClusterError

        if not name.isidentifier() or importlib.util.find_spec(f"benchmarks.{name}") is None:
            import benchmarks

            folder = Path(next(iter(benchmarks.__path__)))
            there = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
            raise ClusterError(f"no benchmark {name!r}; there are: {', '.join(there)}")
        sys.argv = [f"anabranch bench {name}", *context.args]
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()

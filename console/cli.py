"""The `anabranch` command. What takes long to import is imported inside the command that needs it.

Every command that meets bad input prints one line and exits with code 2.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from console import service
from console.adapters import adapters_app
from console.bases import PRESET_OF, DemoBase, base_app
from console.completion import presets
from console.configuration import config_app
from console.doctor import doctor
from console.feed import feed
from console.home import home_app
from console.keys import first_steps, keys_app
from console.letters import letters_app
from console.terminal import Sets, Stream, asked_to_stop, load_checked, one_line, out, stream_overrides
from console.top import top

app = typer.Typer(
    name="anabranch",
    help="A live LLM service that learns new domains from a stream, without forgetting and without replaying old data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
def demo(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path("runs/demo"),
    stream: Annotated[
        str, typer.Option(help="embedded, kafka (starts a development broker) or kafka://host:port/topic.")
    ] = "embedded",
    domains: Annotated[int, typer.Option(min=1, max=9, help="How many of the example domains to feed.")] = 6,
    base: Annotated[
        DemoBase, typer.Option(help="small: the base of examples/. smollm2: a real chat model; minutes a domain.")
    ] = DemoBase.SMALL,
    config: Annotated[
        str | None, typer.Option(autocompletion=presets, help="Preset or YAML file, instead of the one of --base.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Serve on afterwards, until Ctrl-C.")] = False,
    set_: Sets = [],  # noqa: B006 - typer reads the default, nobody changes it
) -> None:
    """Stream the example domains into a live system while a client keeps asking; write a report."""
    with one_line():
        from console.demo import run_demo

        run_demo(config or PRESET_OF[base], list(set_), out_dir, stream, domains, out, keep=keep)


@app.command()
def up(
    config: Annotated[str, typer.Argument(autocompletion=presets, help="Preset or YAML file.")],
    stream: Stream = None,
    set_: Sets = [],  # noqa: B006
) -> None:
    """Start the system and serve until interrupted."""
    with one_line():
        settings = load_checked(config, [*stream_overrides(stream), *set_])
        from cluster.runtime import Runtime

        runtime = Runtime(settings)
        with out.status(f"starting {settings.name}"):
            runtime.start()
        # Only now: Ray puts handlers of its own in place when it starts.
        stopping = asked_to_stop()
        try:
            out.print(f"ready: {runtime.url}/v1  (home {settings.home}); Ctrl-C stops it")
            out.print(f"the page: {runtime.url}/")
            for line in first_steps(settings, config):
                out.print(line)
            stopping.wait()
        finally:
            with out.status("stopping"):
                runtime.stop()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(
    context: typer.Context, name: Annotated[str, typer.Argument(help="Name of a file or package in benchmarks/.")]
) -> None:
    """Run a benchmark; what follows the name is handed to it."""
    with one_line():
        import importlib.util
        import runpy

        import benchmarks
        from cluster.errors import ClusterError

        folder = Path(next(iter(benchmarks.__path__)))
        files = [(path.stem, path) for path in folder.glob("*.py")]
        packages = [(path.parent.name, path) for path in folder.glob("*/__main__.py")]
        there = sorted(name for name, path in [*files, *packages] if "def main(" in path.read_text())
        if name not in there or importlib.util.find_spec(f"benchmarks.{name}") is None:
            raise ClusterError(f"no benchmark {name!r}; there are: {', '.join(there)}")
        sys.argv = [f"anabranch bench {name}", *context.args]
        runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)


app.command()(feed)
app.command()(doctor)
app.command()(service.status)
app.command()(top)
app.command()(service.route)
app.command()(service.chat)
app.command()(service.ui)
app.add_typer(adapters_app, name="adapters")
app.add_typer(service.domains_app, name="domains")
app.add_typer(base_app, name="base")
app.add_typer(config_app, name="config")
app.add_typer(letters_app, name="dead-letters")
app.add_typer(home_app, name="home")
app.add_typer(keys_app, name="keys")


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()

"""The commands on configurations: show one whole, check one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from console.completion import presets
from console.terminal import Sets, load_checked, one_line, out

if TYPE_CHECKING:
    from configs.settings import Settings

config_app = typer.Typer(help="Show or check a configuration.", no_args_is_help=True)

Config = Annotated[str, typer.Argument(autocompletion=presets)]


@config_app.command("show")
def config_show(config: Config, set_: Sets = []) -> None:  # noqa: B006
    """Print the whole configuration, defaults included, as YAML."""
    with one_line():
        import yaml

        print(yaml.safe_dump(load_checked(config, list(set_)).model_dump(mode="json"), sort_keys=False), end="")


@config_app.command("validate")
def config_validate(config: Config, set_: Sets = []) -> None:  # noqa: B006
    """Check a configuration, the paths it names, the broker's certificates and secrets, and whether what it puts on
    GPUs fits there. No broker is asked."""
    with one_line():
        from configs.memory_sum import check_memory

        settings = load_checked(config, list(set_))
        if settings.stream.kind == "kafka":
            _check_secrets(settings)
        lines = check_memory(settings)
        out.print(f"{config}: valid ({settings.name})")
        for line in lines:
            out.print(line)


def _check_secrets(settings: Settings) -> None:
    from cluster import builders

    if (kafka := builders.kafka_options(settings)) is not None:
        kafka.check()

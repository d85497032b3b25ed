"""Whether the things that settings name are there, on this machine and now, and would fit.

Apart from the loader, because settings may be read and checked on a machine that will not run them. What this module
does not know: how any of these things is used.
"""

from pathlib import Path

from configs.errors import ConfigError
from configs.memory_sum import check_memory
from configs.settings import Settings
from learning.catalogue import located
from learning.errors import CatalogueError

_LOCAL_PREFIXES = (".", "/", "~", "examples/", "models/", "runs/")


def check(settings: Settings) -> None:
    """Raise ConfigError, one line, if a path is named but not there, or the GPUs can't hold what is put on them."""
    check_paths(settings)
    check_memory(settings)


def check_paths(settings: Settings) -> None:
    """Raise ConfigError, one line, if a model's folder, a certificate or a password's file is named but not there."""
    _check_model(settings, "base.model", settings.base.model)
    if settings.features.model is not None:
        _check_model(settings, "features.model", settings.features.model)
    for key in ("sasl_password_file", "ssl_cafile", "ssl_certfile", "ssl_keyfile", "ssl_key_password_file"):
        path: Path | None = getattr(settings.stream, key)
        if path is not None and not path.is_file():
            raise ConfigError(
                f"{settings.name}: stream.{key}: expected a file, got {str(path)!r}, which is none; correct the path"
            )


def _check_model(settings: Settings, key: str, model: str) -> None:
    try:
        located(model)
    except CatalogueError as error:
        raise ConfigError(f"{settings.name}: {key}: {error}") from error
    folder = Path(model).expanduser()
    if not looks_local(model):
        return
    if not folder.is_dir():
        raise ConfigError(
            f"{settings.name}: {key}: expected a folder in the Hugging Face layout or a hub name, "
            f"got {model!r}, which is no folder here; correct the path"
        )
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{settings.name}: {key}: expected a config.json in {model!r}, got a folder without one; "
            "name the folder that holds the model"
        )


def looks_local(model: str) -> bool:
    """Whether a model's name means a folder; a hub name is `owner/name` or `name`."""
    return model.startswith(_LOCAL_PREFIXES) or model.count("/") > 1 or Path(model).is_dir()

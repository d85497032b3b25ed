"""The one error of this package."""


class ConfigError(Exception):
    """A configuration that cannot be used; its text is a single line: what, where, expected, got, remedy."""

    def __init__(self, message: str) -> None:
        # Names of files and text of overrides may hold line breaks; the promise is one line.
        super().__init__(" ".join(message.split()))

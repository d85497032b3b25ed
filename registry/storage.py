"""Where a registry's files lie: what a folder and a bucket of an object store have in common.

Keys are relative paths with slashes. There are three kinds of content: files that are named by their content and so
can be kept again at any time; few small records that are replaced, on the condition that they are what was read; and
folders of files, there whole or not at all. What this module does not know: what the files mean.

Reading raises FileNotFoundError for what is not there; what can't be asked is an OSError or `StoreAway`.
"""

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from registry.errors import Overtaken

T = TypeVar("T")

Tag = tuple[str | None, str | None]
"""By which a storage knows one state of a record from all others."""
Content = bytes | Path
"""A file's bytes, or where they lie on this machine."""

_TRIES = 20


@dataclass(frozen=True)
class Listed:
    """What a listing says of a file or a folder."""

    key: str
    modified: float
    """When it was last kept, in seconds; only compared with others of the same storage."""
    state: Hashable = None
    """Equal as long as it is unchanged; None where a listing does not tell."""

    @property
    def name(self) -> str:
        """The last part of its key."""
        return self.key.rpartition("/")[2]


class Storage(Protocol):
    """One root, that many processes on many machines may use at once."""

    @property
    def root(self) -> Path | str:
        """Where it is, for people."""
        ...

    @property
    def keeps_all(self) -> bool:
        """Whether files of one number are told apart by their digest, as nobody can be kept from writing at once."""
        ...

    def open(self, folders: Collection[str]) -> None:
        """Make it ready to be written to; RegistryError where that can't be."""
        ...

    def sweep(self) -> None:
        """Remove what interrupted writers have left behind."""
        ...

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep others from writing: all, in a folder; in a bucket the threads of this process, and a condition on
        what is replaced keeps off the rest."""
        ...

    def read(self, key: str) -> bytes:
        """A file's content."""
        ...

    def read_tagged(self, key: str) -> tuple[bytes, Tag]:
        """A record, and what `replace` wants to know it by."""
        ...

    def replace(self, key: str, content: bytes, tag: Tag | None) -> None:
        """Put a record in the place of the one of that tag, durably; None where none may be there. `Overtaken` where
        another one is. Two writers never put the same content, so where an answer is lost it is read back."""
        ...

    def settle(self, key: str, value: str) -> str:
        """The first value that anybody has given under that key, for good; this one where nobody could before."""
        ...

    def keep(self, key: str, parts: Sequence[bytes | memoryview], digest: str) -> bool:
        """Keep a file that is named by its content, durably, and as young as if it were new; returns whether it was
        written, as what is there and whole need not be."""
        ...

    def state(self, key: str) -> Listed:
        """A file as a listing would have it."""
        ...

    def size(self, key: str) -> int:
        """Bytes of a file."""
        ...

    def entries(self, folder: str) -> list[Listed]:
        """The files below, at any depth, by key."""
        ...

    def remove(self, keys: Collection[str]) -> None:
        """Remove files; they may be gone already."""
        ...

    def local(self, key: str, digest: str) -> Path:
        """A file of this machine with the content of that sha256, to be mapped; DigestMismatch where it is another."""
        ...

    # Folders

    def keep_folder(self, key: str, files: Mapping[str, Content]) -> None:
        """Keep a folder under a name that nobody else gives to other content; whole or not at all, durably."""
        ...

    def touch_folder(self, key: str) -> None:
        """Make a folder as young as if it were new."""
        ...

    def folder_state(self, key: str, file: str) -> Hashable:
        """Equal as long as the folder has the same file."""
        ...

    def folders(self, folder: str) -> list[Listed]:
        """The folders directly below, by key."""
        ...

    def has_folder(self, key: str) -> bool:
        """Whether it is there, whole or damaged."""
        ...

    def contents(self, key: str) -> dict[str, int]:
        """The files of a folder with their bytes, by name."""
        ...

    def read_in(self, key: str, file: str) -> bytes:
        """The content of a folder's file."""
        ...

    def stream_in(self, key: str, file: str) -> Iterator[bytes]:
        """The same piece by piece."""
        ...

    def remove_folder(self, key: str) -> None:
        """Remove a folder so that nobody finds it with only some of its files."""
        ...

    def local_folder(self, key: str) -> Path:
        """Where the folder lies on this machine, for who needs files."""
        ...

    def present(self, path: Path) -> None:
        """Have what `local_folder` gave on another machine of the same user; nothing to do for any other path."""
        ...

    def fetch(self, key: str, verify: Callable[[], None]) -> Path:
        """The same after its bytes were read here and now; `verify` reads those that are kept."""
        ...

    def hand_over(self, key: str, folder: Path) -> Path:
        """Move the files of a folder of this machine, not those of folders in it, to where others know their folder by
        the path that this returns, until someone calls `take_away`. They need not outlive a crash."""
        ...

    def take_away(self, path: Path) -> None:
        """Remove what was handed over, by the path that was returned then; nothing to do where it is gone."""
        ...


@dataclass(frozen=True)
class Place:
    """A key and where it is; as text it is what people know it by."""

    storage: Storage = field(compare=False)
    key: str

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition("/")[2]

    def read(self) -> bytes:
        """The content; FileNotFoundError where there is none."""
        return self.storage.read(self.key)

    def is_there(self) -> bool:
        """Whether there is a file; raises what `read` does where that can't be told."""
        try:
            self.storage.size(self.key)
        except FileNotFoundError:
            return False
        return True

    def __str__(self) -> str:
        return f"{self.storage.root}/{self.key}"


def again(attempt: Callable[[], T]) -> T:
    """What `attempt` gives, tried anew as often as somebody else was faster."""
    for _ in range(_TRIES - 1):
        try:
            return attempt()
        except Overtaken:
            continue
    return attempt()

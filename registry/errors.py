"""The errors of this package; each message says what, where, expected and got, and the remedy."""


class RegistryError(Exception):
    """Root of this package's errors."""


class UnknownAdapter(RegistryError):
    """No adapter of that name is in the registry."""


class UnknownKey(RegistryError):
    """No access key of that id is in the registry."""


class KeyRefused(RegistryError):
    """An access key can't be what was asked: it has ended, or there are too many."""


class UnknownManifest(RegistryError):
    """No manifest of that number leads to the one in force, it has been pruned, or its file is damaged."""


class UnknownSegment(RegistryError):
    """No segment file of that name is in the registry."""


class DigestMismatch(RegistryError):
    """The content of a file is not what was written: the disk or a person has changed it."""


class CommitConflict(RegistryError):
    """The commit does not follow the head: somebody else has committed in between."""


class StaleWriter(CommitConflict):
    """A later run of the writer has begun: this one may commit nothing more."""


class OtherBase(RegistryError):
    """A version was judged on another base, or another change of it, than the one it would be served on."""


class DamagedSnapshot(DigestMismatch):
    """The snapshot in force is not what was committed; going back to an earlier one is a person's decision."""


class OldHome(RegistryError):
    """The home was written by a version whose files this one does not read."""


class NewerHome(RegistryError):
    """A file was written by a later version, in a format that this one does not read."""


class Overtaken(CommitConflict):
    """What was to be replaced is not what was read any more: somebody else has replaced it."""


class StoreAway(RegistryError):
    """Storage could not be asked, after all retries: nothing is known of what it holds."""

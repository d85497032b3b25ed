"""What an access key looks like: `ab-<id>-<secret>` in hexadecimal, 48 bits to find it by and 256 that nobody guesses.

A secret of 256 random bits needs no slow hash: nobody tries its values. Imports little, for the processes that only
have to leave keys out of what they write. What this module does not know: which keys there are.
"""

import hashlib
import re
import secrets

KEY = re.compile(r"ab-([0-9a-f]{12})-[0-9a-f]{64}")
_LIKE_ONE = re.compile(r"(ab-[0-9a-f]{12})-[0-9a-f]{8,}", re.IGNORECASE)


def mint(key: str | None = None) -> str:
    """A new key, or one more for the id of a key that there is."""
    return f"ab-{key or secrets.token_hex(6)}-{secrets.token_hex(32)}"


def id_of(text: str) -> str | None:
    """The id in a key; None for what has not the form of one."""
    found = KEY.fullmatch(text)
    return found[1] if found else None


def digest_of(text: str) -> str:
    """What is kept of a key: sha256, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def masked(text: str) -> str:
    """The text with no key in it, nor most of one: ids stay."""
    return _LIKE_ONE.sub(r"\1-...", text)

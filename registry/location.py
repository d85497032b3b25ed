"""From a URL to where a registry lies.

Credentials and endpoints come from the environment alone, by the names that each cloud's own tools read:
AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME and others.

What this module does not know: who asks, and what is kept there.
"""

import hashlib
import os
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from registry.disk import Disk
from registry.errors import RegistryError
from registry.storage import Storage

SCHEMES = ("s3", "gs", "az", "file")
_RETRIES: Any = {"max_retries": 6, "retry_timeout": timedelta(seconds=30)}
"""Of one request: a store that is away for longer is said to be so."""
_TIMEOUTS = {"timeout": "30s", "connect_timeout": "5s"}


def storage_at(url: str, copies: Path) -> Storage:
    """The folder or bucket that a URL names; `copies` is a folder of this machine, for files of buckets. RegistryError,
    in one line, for what is none."""
    try:
        parts = urlsplit(url)
        secret = parts.username is not None or parts.password is not None or parts.port is not None
    except ValueError as error:
        raise RegistryError(f"registry.url: expected a URL, got one that is none: {error}") from error
    path = unquote(parts.path)
    if parts.scheme not in SCHEMES or secret or parts.query or parts.fragment or ".." in path.split("/"):
        raise RegistryError(
            "registry.url: expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER "
            "and nothing more; credentials and endpoints come from the environment"
        )
    if (parts.scheme == "file") == bool(parts.netloc) or (parts.scheme == "file" and path in ("", "/")):
        raise RegistryError(f"registry.url: expected a bucket, or file:/// and a folder, got {url!r}")
    if parts.scheme == "file":
        return Disk(Path(path))
    return _bucket(f"{parts.scheme}://{parts.netloc}{path}".rstrip("/"), copies)


def _bucket(url: str, copies: Path) -> Storage:
    # A second to import, and nothing for who has a folder.
    from obstore.exceptions import BaseError
    from obstore.store import AzureStore, GCSStore, S3Store

    from registry.bucket import Bucket

    options: Any = dict(_TIMEOUTS)
    if any(os.environ.get(name, "").startswith("http://") for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")):
        options["allow_http"] = True
    try:
        kinds: dict[str, Any] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
        store = kinds[url.partition(":")[0]].from_url(url, client_options=options, retry_config=_RETRIES)
    except (BaseError, ValueError) as error:
        words = " ".join(str(error).partition("Debug source")[0].split())
        raise RegistryError(f"registry.url {url}: {words}; correct the URL or the environment") from error
    return Bucket(store, url, copies / hashlib.sha256(url.encode()).hexdigest()[:16])

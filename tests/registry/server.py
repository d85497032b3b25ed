"""An S3 server, SeaweedFS, on this machine, as a package brings it."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store

from streaming.broker import free_port

BUCKET = "anabranch"
_SECONDS = 60.0


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """The environment by which clients find it; it goes down when the context ends."""
    weed = Path(sys.executable).with_name("weed")
    names = ("s3", "master", "volume", "filer")
    ports = {name: free_port() for each in names for name in (f"{each}.port", f"{each}.port.grpc")}
    keys = {"AWS_ACCESS_KEY_ID": "anabranch", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    url = f"http://127.0.0.1:{ports['s3.port']}"
    command = [
        *(str(weed), "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
        *(f"-{name}={port}" for name, port in ports.items()),
        *("-volume.max=20", "-master.volumeSizeLimitMB=64"),
    ]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **keys})
    try:
        deadline = time.monotonic() + _SECONDS
        while not _answers(f"{url}/{BUCKET}"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server does not answer: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)
        # The first object makes the bucket.
        at: Any = {"endpoint": url, "region": "us-east-1", "allow_http": "true"}
        at |= {"access_key_id": keys["AWS_ACCESS_KEY_ID"], "secret_access_key": keys["AWS_SECRET_ACCESS_KEY"]}
        obstore.put(S3Store(BUCKET, **at), "made", b"")
        yield {**keys, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": url}
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True

"""A small HTTP server that gives one answer to whatever it is asked, and the command line run in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from typer.testing import CliRunner, Result

from console.cli import app


@dataclass
class FrontDoor:
    """`length` of the body as stated: None is what it has, more than that is a connection that breaks."""

    status: int = 200
    body: bytes = b"{}"
    kind: str = "application/json"
    length: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def run(self, *arguments: str, typed: str | None = None) -> Result:
        """Run `anabranch` with these arguments against this door."""
        return CliRunner().invoke(app, [*arguments, "--url", self.url], input=typed)

    def refused(self, *arguments: str, typed: str | None = None) -> str:
        """Run a command that must end with one line and exit code 2; returns the line."""
        done = self.run(*arguments, typed=typed)
        assert done.exit_code == 2, (done.output, done.exception)
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("anabranch: "), done.stderr
        return lines[0]


@contextmanager
def front_door(door: FrontDoor) -> Iterator[FrontDoor]:
    """The door, open."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            door.asked.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(door.status)
            for name, value in {"content-type": door.kind, **door.headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(door.body) if door.length is None else door.length))
            self.end_headers()
            self.wfile.write(door.body)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - names that the server looks for

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        door.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield door
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

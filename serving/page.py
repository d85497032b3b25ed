"""The page at `/`: the files that `page/` is built to, read once and sent from memory.

They hold nothing of the system, so nobody is asked for a key; what they show, the page asks for with its user's.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from mimetypes import guess_type
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

FOLDER = Path(__file__).with_name("bundle")
"""What `npm run build` in `page/` writes."""
ASSETS = "/assets/"
"""Where everything but the page itself lies; a name there has its content's digest in it."""
_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FOR_EVER = "public, max-age=31536000, immutable"
_ASK_AGAIN = "no-cache"


@dataclass(frozen=True)
class _File:
    content: bytes
    packed: bytes
    kind: str
    tag: str

    @classmethod
    def read(cls, path: Path) -> _File:
        content = path.read_bytes()
        kind = guess_type(path.name)[0] or "application/octet-stream"
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        return cls(content, gzip.compress(content, mtime=0), kind, tag)

    def answer(self, request: Request, lasting: str) -> Response:
        """The file, packed for whoever takes it so; 304 where it is known."""
        headers = {
            "cache-control": lasting,
            "etag": self.tag,
            "vary": "accept-encoding",
            "content-security-policy": _POLICY,
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        }
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        takes_packed = "gzip" in request.headers.get("accept-encoding", "")
        if takes_packed:
            headers["content-encoding"] = "gzip"
        return Response(self.packed if takes_packed else self.content, headers=headers, media_type=self.kind)


def page_router(folder: Path = FOLDER) -> APIRouter:
    """The paths of the page in `folder`; without one there, they are 404 and everything else works."""
    files = {path.name: _File.read(path) for path in sorted((folder / "assets").glob("*"))}
    index = _File.read(folder / "index.html") if (folder / "index.html").is_file() else None
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page(request: Request) -> Response:
        if index is None:
            raise HTTPException(404, "this installation has no page: its build is missing; build it in page/")
        return index.answer(request, _ASK_AGAIN)

    @router.get(ASSETS + "{name}")
    async def asset(name: str, request: Request) -> Response:
        if name not in files:
            raise HTTPException(404, "no such file of the page; load it again")
        return files[name].answer(request, _FOR_EVER)

    return router

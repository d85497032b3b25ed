"""Dead letters over HTTP: look at them, mend them, send them again."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from serving.openai_body import bad_request
from serving.past_bodies import LetterList, ReplayRequest, ReplayResult
from serving.paths import answering, asking, sent
from serving.ports import ControlPort
from serving.request_body import MAX_RECORDS_BYTES, limit, parse, read_bytes

_MOST = 1_000


def letter_router(control: ControlPort) -> APIRouter:
    """The paths below /v1/dead-letters."""
    router = APIRouter(prefix="/v1/dead-letters")

    @router.get("", responses=answering(LetterList))
    async def letters(request: Request) -> Response:
        """The newest, `limit` (100) of them, up to 1000."""
        most = limit(request, 100, _MOST)
        found = await control.dead_letters()
        return sent(LetterList(letters=found[::-1][:most], total=len(found)))

    @router.post("/replay", responses=answering(ReplayResult), openapi_extra=asking(ReplayRequest, required=False))
    async def replay(request: Request) -> Response:
        """Send letters again, as they were or mended; one that can't be sent stays listed."""
        content = await read_bytes(request, MAX_RECORDS_BYTES)
        try:
            asked = ReplayRequest.model_validate(parse(content) if content.strip() else {})
        except ValidationError as error:
            wanted = '{"letters": [{"topic", "partition", "offset", "text": mended record or null}]}'
            raise bad_request(f"expected {wanted}, or no body for all of them", "letters") from error
        return sent(await control.replay_letters(asked.letters))

    return router

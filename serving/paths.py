"""How a path answers with one of our bodies, and how it is described in /openapi.json. Knows no path by name."""

from __future__ import annotations

from typing import Any

from fastapi import Response
from pydantic import BaseModel

from serving.api import Body, ErrorAnswer

ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {"model": ErrorAnswer, "description": "An error, in OpenAI's form. 503 says when to come again."}
}


def sent(body: Body, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """The body as JSON."""
    return Response(body.model_dump_json(), status, headers, media_type="application/json")


def answering(model: type[Body], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """The path answers with this body, with 200 unless told otherwise."""
    return {status: {"model": model} for status in statuses or (200,)}


def asking(body: type[BaseModel] | dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    """The path takes this JSON body: a model, or a schema."""
    schema = body if isinstance(body, dict) else body.model_json_schema()
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def openai_body(of: str) -> dict[str, Any]:
    """OpenAI's request body of that name: theirs to describe."""
    words = f"OpenAI's {of} request, with vLLM's further fields; `model` also takes auto, base, a domain or a version."
    return {"type": "object", "additionalProperties": True, "description": words}

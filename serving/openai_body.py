"""OpenAI request and error bodies as plain dictionaries. Knows no engine and no HTTP framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from serving.api import ErrorAnswer, ErrorDetail
from serving.engine import Prompt
from serving.errors import Refused

_BOOLEAN = TypeAdapter(bool)


def error_body(message: str, kind: str, code: int, param: str | None = None) -> dict[str, Any]:
    """The error object that OpenAI clients understand."""
    return ErrorAnswer(error=ErrorDetail(message=message, type=kind, param=param, code=code)).model_dump()


def bad_request(message: str, param: str | None = None) -> Refused:
    return Refused(400, error_body(message, "BadRequestError", 400, param))


def model_not_found(model: object) -> Refused:
    message = f"The model `{model}` does not exist. Ask /v1/models for those that do."
    return Refused(404, error_body(message, "NotFoundError", 404, "model"))


def without_nulls(body: Mapping[str, Any]) -> dict[str, Any]:
    """The request without its fields that are null: null means absent. What lies inside the fields stays as it is."""
    return {name: value for name, value in body.items() if value is not None}


def ended_by(body: Mapping[str, Any], terminator: str | None) -> dict[str, Any]:
    """The request with the terminator among its stop texts.

    `ignore_eos` asks for answers of full length, so it overrules the terminator as it does the end-of-text token. Where
    a grammar says when the answer is complete, the terminator (a newline, say) may be part of it and must not cut it. A
    `stop` of a wrong type is left for the engine to refuse.
    """
    request = dict(body)
    if terminator is None or is_true(request.get("ignore_eos")) or _ends_by_grammar(request):
        return request
    stop = request.get("stop")
    if stop is None:
        request["stop"] = [terminator]
    elif isinstance(stop, str):
        request["stop"] = [stop, terminator]
    elif isinstance(stop, list) and terminator not in stop:
        request["stop"] = [*stop, terminator]
    return request


def is_true(value: object) -> bool:
    """Whether the engine's parser, which is pydantic's too, reads this as true."""
    try:
        return _BOOLEAN.validate_python(value)
    except ValidationError:
        return False


def _ends_by_grammar(request: Mapping[str, Any]) -> bool:
    response_format = request.get("response_format")
    if isinstance(response_format, Mapping) and response_format.get("type") not in (None, "text"):
        return True
    if request.get("structured_outputs") is not None:
        return True
    return bool(request.get("tools")) and request.get("tool_choice") not in (None, "auto", "none")


def prompts_of(prompt: str | list[int] | list[str] | list[list[int]] | None) -> tuple[Prompt, ...]:
    """A completion request's parsed `prompt`, one entry per prompt. Raises Refused where there is none."""
    if isinstance(prompt, str):
        return (prompt,)
    tokens: list[int] = []
    prompts: list[Prompt] = []
    for each in prompt or ():
        if isinstance(each, int):
            tokens.append(each)
        else:
            prompts.append(each)
    if tokens:
        prompts.append(tokens)
    if not prompts:
        raise bad_request("prompt must be a text, token ids, or a non-empty list of either", "prompt")
    return tuple(prompts)


def with_prompts(body: Mapping[str, Any], prompts: Sequence[Prompt]) -> dict[str, Any]:
    """The same completion request for these prompts only."""
    return {**body, "prompt": list(prompts)}


def plain_messages(messages: Sequence[Mapping[str, Any]]) -> tuple[dict[str, str], ...]:
    """A chat's messages with text contents only, as the prompt template takes them.

    Tool definitions and attached media are no part of what is scored: no domain was learned from them.
    """
    return tuple({"role": message["role"], "content": _text(message.get("content"))} for message in messages)


def _text(content: object) -> str:
    """A content's text; parts are put together as the engine does it, by line ends."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = (part.get("text") if isinstance(part, Mapping) else part for part in content)
        return "\n".join(part for part in parts if isinstance(part, str))
    return ""

"""OpenAI request and error bodies as plain dictionaries. Knows no engine and no HTTP framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serving.errors import Refused

Prompt = str | list[int]


def error_body(message: str, kind: str, code: int, param: str | None = None) -> dict[str, Any]:
    """The error object that OpenAI clients understand."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def bad_request(message: str, param: str | None = None) -> Refused:
    return Refused(400, error_body(message, "BadRequestError", 400, param))


def model_not_found(model: object) -> Refused:
    message = f"The model `{model}` does not exist. Ask /v1/models for those that do."
    return Refused(404, error_body(message, "NotFoundError", 404, "model"))


def ended_by(body: Mapping[str, Any], terminator: str | None) -> dict[str, Any]:
    """The request with the terminator among its stop texts.

    `ignore_eos` asks for answers of full length, so it overrules the terminator as it does the end-of-text token. Where
    a grammar says when the answer is complete, the terminator (a newline, say) may be part of it and must not cut it. A
    `stop` of a wrong type is left for the engine to refuse.
    """
    request = dict(body)
    if terminator is None or request.get("ignore_eos") is True or _ends_by_grammar(request):
        return request
    stop = request.get("stop")
    if stop is None:
        request["stop"] = [terminator]
    elif isinstance(stop, str):
        request["stop"] = [stop, terminator]
    elif isinstance(stop, list) and terminator not in stop:
        request["stop"] = [*stop, terminator]
    return request


def _ends_by_grammar(request: Mapping[str, Any]) -> bool:
    response_format = request.get("response_format")
    if isinstance(response_format, Mapping) and response_format.get("type") not in (None, "text"):
        return True
    if request.get("structured_outputs") is not None:
        return True
    return bool(request.get("tools")) and request.get("tool_choice") not in (None, "auto", "none")


def prompts_of(body: Mapping[str, Any]) -> list[Prompt]:
    """A completion request's prompts, one entry per prompt. Raises Refused where there is none."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(token, int) for token in prompt):
            return [prompt]
        return list(prompt)
    raise bad_request("prompt must be a text, token ids, or a non-empty list of either", "prompt")


def with_prompts(body: Mapping[str, Any], prompts: Sequence[Prompt]) -> dict[str, Any]:
    """The same completion request for these prompts only."""
    return {**body, "prompt": list(prompts)}


def plain_messages(body: Mapping[str, Any]) -> list[dict[str, str]]:
    """A chat request's messages with text contents only, as the prompt template takes them.

    Tool definitions and attached media are no part of what is scored: no domain was learned from them.
    """
    return [
        {"role": str(message.get("role", "user")), "content": _text(message.get("content"))}
        for message in body.get("messages", ())
        if isinstance(message, Mapping)
    ]


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = (part.get("text") if isinstance(part, Mapping) else part for part in content)
        return "".join(part for part in parts if isinstance(part, str))
    return ""

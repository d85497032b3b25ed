"""vLLM's own OpenAI serving classes, used in this process: templates, streaming, tools, logprobs behave as vLLM's.

Which adapter answers is decided elsewhere and given as a name. Knows no manifest and no HTTP server.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from prometheus_client import generate_latest
from pydantic import ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMError, VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.prometheus import get_prometheus_registry

from serving.engine import Answer, Call, Kind
from serving.errors import Refused, Unavailable
from serving.openai_body import bad_request, plain_messages, prompts_of
from serving.options import EngineOptions
from serving.served import BASE

_REQUESTS: dict[Kind, type[ChatCompletionRequest] | type[CompletionRequest]] = {
    "chat": ChatCompletionRequest,
    "completion": CompletionRequest,
}
_REPORTED_ERRORS = 5
# Rendered in this process or checked against the vocabulary; all else travels to the engine's as it is.
_NOT_FOR_THE_ENGINE = ("messages", "tools", "prompt")


class _OwnErrors:
    """The one way in which an engine without a connector ends a request with an error: its grammar is at a dead end."""

    def _raise_if_error(self, finish_reason: str | None, request_id: str) -> None:
        if finish_reason == "error":
            raise VLLMValidationError(
                "the request's schema or grammar leaves neither a next token nor an end, "
                "as one does that refers to itself; correct it"
            )


class _Models(OpenAIServingModels):
    """Names that the base answers under, beside its own; an answer carries the one that was asked for."""

    def __init__(self, llm: AsyncLLM, model: str) -> None:
        super().__init__(llm, [BaseModelPath(name=BASE, model_path=model)])
        self.answered_by_base = {BASE}
        self.asked: ContextVar[str] = ContextVar("asked", default=BASE)

    def is_base_model(self, model_name: str) -> bool:
        return model_name in self.answered_by_base

    def model_name(self, lora_request: LoRARequest | None = None) -> str:
        return self.asked.get() if lora_request is None else lora_request.lora_name


class _Chat(_OwnErrors, OpenAIServingChat):
    pass


class _Completion(_OwnErrors, OpenAIServingCompletion):
    pass


class OpenAILayer:
    """`chat_template` is the effective template's text."""

    def __init__(self, llm: AsyncLLM, options: EngineOptions, chat_template: str) -> None:
        self._tokenizer = llm.get_tokenizer()
        self._models = _Models(llm, options.model)
        auto_tools = options.tool_call_parser is not None
        self._renderer = OnlineRenderer(
            llm.model_config,
            llm.renderer,
            request_logger=None,
            chat_template=chat_template,
            chat_template_content_format="auto",
            enable_auto_tools=auto_tools,
            tool_parser=options.tool_call_parser,
            reasoning_parser=options.reasoning_parser or "",
        )
        self._chat = _Chat(
            llm,
            self._models,
            "assistant",
            online_renderer=self._renderer,
            request_logger=None,
            chat_template=chat_template,
            chat_template_content_format="auto",
            enable_auto_tools=auto_tools,
            tool_parser=options.tool_call_parser,
            reasoning_parser=options.reasoning_parser or "",
        )
        self._completion = _Completion(llm, self._models, online_renderer=self._renderer, request_logger=None)
        # An answer's is the manifest's and the version's, which are told apart from here.
        self._chat.system_fingerprint = self._completion.system_fingerprint = None

    async def warm_up(self) -> None:
        """Compile the chat template once, before the first request waits for it."""
        self._renderer.warmup()

    def serve(self, name: str, request: LoRARequest | None) -> None:
        """Let `name` be asked for; None is answered by the base."""
        if request is None:
            self._models.answered_by_base.add(name)
        else:
            self._models.lora_requests[name] = request

    def forget(self, name: str) -> None:
        self._models.lora_requests.pop(name, None)
        self._models.answered_by_base.discard(name)

    def parse(self, kind: Kind, body: Mapping[str, Any]) -> Call:
        try:
            parsed = _REQUESTS[kind].model_validate(dict(body))
        except ValidationError as error:
            raise _refused_validation(error) from error
        except (VLLMError, ValueError, TypeError) as error:
            raise _refused(create_error_response(error)) from error
        for key, value in body.items():
            if key not in _NOT_FOR_THE_ENGINE and _is_beyond_64_bits(value):
                raise bad_request(f"{key}: expected numbers of at most 64 bits, got a larger one", key)
        stream, samples = bool(parsed.stream), parsed.n or 1
        if isinstance(parsed, ChatCompletionRequest):
            # What vLLM keeps of contents can be read once, and that is for vLLM.
            messages = plain_messages(body["messages"])
            return Call(kind, body, stream, parsed, parsed.model, messages=messages, samples=samples)
        if parsed.prompt_embeds is not None:
            raise bad_request("prompt_embeds are not taken; send a prompt", "prompt_embeds")
        return Call(kind, body, stream, parsed, parsed.model, prompts_of(parsed.prompt), samples=samples)

    async def generate(self, call: Call, model: str) -> Answer:
        request = call.parsed.model_copy(update={"model": model})
        self._models.asked.set(model)
        create = self._chat.create_chat_completion if call.kind == "chat" else self._completion.create_completion
        try:
            answer = await create(request)
        except EngineDeadError as error:
            raise Unavailable("the engine process has died") from error
        except Exception as error:
            # vLLM's own server maps every other exception to a body of the OpenAI form, by this function.
            raise _refused(create_error_response(error)) from error
        if isinstance(answer, ErrorResponse):
            raise _refused(answer)
        if isinstance(answer, AsyncGenerator):
            return answer
        body: dict[str, Any] = answer.model_dump(mode="json")
        return body

    def decode(self, token_ids: Sequence[int]) -> str:
        if not all(0 <= token < len(self._tokenizer) for token in token_ids):
            raise bad_request(f"token ids must be from 0 to {len(self._tokenizer) - 1}", "prompt")
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False)

    def metrics(self) -> bytes:
        return generate_latest(get_prometheus_registry())


def _is_beyond_64_bits(value: object) -> bool:
    """Whether a number anywhere in a JSON value is too large for the wire to the engine's process."""
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, Mapping):
            left += item.values()
        elif isinstance(item, list):
            left += item
        elif isinstance(item, int) and not -(2**63) <= item < 2**64:
            return True
    return False


def _refused(error: ErrorResponse) -> Refused:
    return Refused(error.error.code, error.model_dump(mode="json"))


def _refused_validation(error: ValidationError) -> Refused:
    """One line per fault, bounded: a request's faults are not echoed back at any length."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    # Union branches and validators put their own marks into the location; a field's name has no such characters.
    places = [".".join(str(part) for part in fault["loc"] if not set(str(part)) & set("[](){}-")) for fault in faults]
    lines = [f"{place or 'request'}: {fault['msg']}" for place, fault in zip(places, faults, strict=True)]
    more = len(lines) - _REPORTED_ERRORS
    if more > 0:
        lines = [*lines[:_REPORTED_ERRORS], f"and {more} more"]
    return bad_request("; ".join(lines), places[0] or None)

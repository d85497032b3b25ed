"""Traces of requests by OpenTelemetry: through admission, routing and the engine, to the last token.

    chat german-dates             by the semantic conventions for generative AI (gen_ai.*), a server's span
    |- anabranch.admit            waiting for the base, and for a turn in the engine
    |- anabranch.route            who answers: domain, score, why the base
    `- anabranch.generate         the engine, to the last event; an event `first token` in a stream

Prompts and answers are not recorded. Without an endpoint nothing of the library is imported, and a request costs a look
at a variable; what can't be exported is dropped by the library, and fails no request. Knows no HTTP framework.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from serving.api import RouteResult
from serving.engine import Answer, Call
from serving.served import AUTO
from serving.tracing_options import TracingOptions

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

CARRIER: ContextVar[Mapping[str, str] | None] = ContextVar("carrier", default=None)
"""Headers of the request that is being answered, of which `traceparent` and `tracestate` are W3C's."""
_OPERATIONS = {"chat": "chat", "completion": "text_completion"}


class Trace:
    """One request's: its span and the spans below. Without a span every method does nothing."""

    def __init__(self, tracer: Tracer | None = None, span: Span | None = None) -> None:
        self._tracer, self._span = tracer, span

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A span around a part of the work."""
        span = self._below(name)
        if span is None:
            yield
            return
        try:
            yield
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            span.end()

    def routed(self, result: RouteResult) -> None:
        """Note who answers."""
        if self._span is None:
            return
        decisions = result.decisions
        self._span.set_attribute("gen_ai.response.model", ",".join(dict.fromkeys(each.adapter for each in decisions)))
        self._span.set_attribute("anabranch.manifest", result.manifest)
        self._span.set_attribute("anabranch.domains", list(dict.fromkeys(each.domain for each in decisions)))
        scores = [each.score for each in decisions if each.score is not None]
        if scores:
            self._span.set_attribute("anabranch.scores", scores)
        if abstained := [each.abstained for each in decisions if each.abstained]:
            self._span.set_attribute("anabranch.abstained", abstained)

    def over(self, answer: Answer) -> Answer:
        """The answer; its end ends the request's span."""
        if self._span is None:
            return answer
        if isinstance(answer, dict):
            self._note(answer)
            self.end()
            return answer
        return self._watched(answer)

    def end(self, error: BaseException | None = None) -> None:
        """End the request's span; the first end counts."""
        if self._span is not None and self._span.is_recording():
            if error is not None:
                _fail(self._span, error)
            self._span.end()

    def _below(self, name: str) -> Span | None:
        if self._span is None or self._tracer is None:
            return None
        from opentelemetry.trace import set_span_in_context

        return self._tracer.start_span(name, set_span_in_context(self._span))

    async def _watched(self, events: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
        assert self._span is not None
        span, is_first = self._below("anabranch.generate"), True
        failure: BaseException | None = None
        try:
            async with aclosing(events):
                async for event in events:
                    if is_first and span is not None and '"choices"' in event:
                        span.add_event("first token")
                        is_first = False
                    # Of most events there is nothing to be noted: they are not read.
                    if any(word in event for word in _NOTED):
                        # One of another form is the client's all the same.
                        with suppress(ValueError, TypeError, AttributeError, KeyError):
                            self._note_event(event)
                    yield event
        except BaseException as error:
            failure = error
            raise
        finally:
            if span is not None:
                span.end()
            self.end(failure)

    def _note_event(self, event: str) -> None:
        for line in event.splitlines():
            if line.startswith("data: {"):
                told = json.loads(line[len("data: ") :])
                if (error := told.get("error")) and self._span is not None:
                    self._span.set_attribute("error.type", str(error.get("type")))
                self._note(told)

    def _note(self, answer: Mapping[str, Any]) -> None:
        """Note what an answer, or an event of one, says of itself."""
        assert self._span is not None
        if answer.get("id"):
            self._span.set_attribute("gen_ai.response.id", str(answer["id"]))
        reasons = [each["finish_reason"] for each in answer.get("choices") or () if each.get("finish_reason")]
        if reasons:
            self._span.set_attribute("gen_ai.response.finish_reasons", reasons)
        usage = answer.get("usage") or {}
        for name, attribute in (("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")):
            if name in usage:
                self._span.set_attribute(f"gen_ai.usage.{attribute}", usage[name])


_NOTED = ('"usage":{', '"usage": {', '"finish_reason":"', '"finish_reason": "', '"error"')
NONE = Trace()
TRACE: ContextVar[Trace] = ContextVar("trace", default=NONE)
"""That of the request that is being answered."""


class Tracing:
    """One replica's. `exporter`: where spans go, None to the options' endpoint."""

    def __init__(self, options: TracingOptions, *, exporter: SpanExporter | None = None) -> None:
        self._tracer: Tracer | None = None
        self._provider: Any = None
        if options.endpoint is None:
            return
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

        resource = Resource.create({"service.name": "anabranch"})
        self._provider = TracerProvider(sampler=ParentBasedTraceIdRatio(options.share), resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter(options.endpoint)))
        self._tracer = self._provider.get_tracer("anabranch")

    def begin(self, call: Call) -> Trace:
        """Begin a request's trace, below its client's where that says so."""
        if self._tracer is None:
            return NONE
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        operation, model = _OPERATIONS[call.kind], call.model or AUTO
        span = self._tracer.start_span(
            f"{operation} {model}",
            TraceContextTextMapPropagator().extract(CARRIER.get() or {}),
            kind=SpanKind.SERVER,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "anabranch",
                "gen_ai.request.model": model,
                "gen_ai.request.stream": call.stream,
            },
        )
        return Trace(self._tracer, span) if span.is_recording() else NONE

    def close(self) -> None:
        """Send what waits, within seconds. Blocks."""
        if self._provider is not None:
            self._provider.shutdown()


def _fail(span: Span, error: BaseException) -> None:
    """A client that has gone is no failure of ours, and is told apart by its type."""
    from opentelemetry.trace import Status, StatusCode

    status = getattr(error, "status", None)
    span.set_attribute("error.type", str(status) if isinstance(status, int) else type(error).__name__)
    if not isinstance(error, GeneratorExit) and type(error).__name__ != "CancelledError":
        span.set_status(Status(StatusCode.ERROR))

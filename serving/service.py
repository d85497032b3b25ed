"""What one replica serves: an engine, the manifest it stands on, and the routing of requests to adapters.

One process, one event loop, one RoutedService. Knows no HTTP framework and none of its peers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any

from registry.decisions import DecisionLog
from serving.api import ReplicaHealth, RouteResult
from serving.batch import announced, groups_of, merged, merged_events, sent
from serving.caller import check_answerers, check_model
from serving.choosing import Chooser
from serving.decision_log import DecisionRecorder
from serving.decision_options import DecisionOptions
from serving.engine import Answer, Call, Engine, Kind, LoadedAdapter
from serving.errors import PrepareFailed, Unavailable
from serving.leases import Lease
from serving.metrics import ReplicaMetrics
from serving.openai_body import bad_request, ended_by, error_body, with_prompts
from serving.options import CONVERSATION_MARGIN, MAX_PROMPTS, EngineKnobs, EngineOptions
from serving.publication import DRAIN_SECONDS, Publication
from serving.reply import LeasedEvents, Reply
from serving.room import EngineRoom, Stay
from serving.selection import Choice, routing, stamp
from serving.served import AUTO, ServedManifest
from serving.tracing import TRACE, Trace, Tracing
from serving.tracing_options import TracingOptions

if TYPE_CHECKING:
    from learning.features import FeatureExtractor
    from learning.template import PromptTemplate
    from registry.manifest import BaseRevision, Manifest
    from registry.registry import Registry
    from serving.hosted_layers import HostedLayers


class RoutedService:
    """Made by `start`; tests inject an engine of their own. `max_prompts` bounds one request, `conversation_margin` and
    `top_k` are the Chooser's, `hot` the Publication's; without `decisions` none is kept."""

    def __init__(
        self,
        engine: Engine,
        registry: Registry,
        extractor_for: Callable[[Manifest], FeatureExtractor],
        template: PromptTemplate,
        knobs: EngineKnobs,
        base: BaseRevision,
        *,
        max_prompts: int = MAX_PROMPTS,
        drain_seconds: float = DRAIN_SECONDS,
        conversation_margin: float = CONVERSATION_MARGIN,
        top_k: int = 1,
        hot: Sequence[str] = (),
        decisions: DecisionOptions | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.engine = engine
        self.metrics = ReplicaMetrics()
        self.fenced: str | None = None
        self.away = False
        """Whether it is to get no requests, as it begins or ends; it answers those that come all the same."""
        self.trouble: str | None = None
        """What its owner says is failing while it serves on; part of its health and nothing more."""
        self.troubles: list[Callable[[], str | None]] = []
        """The same of what stands before it."""
        self._max_prompts = max_prompts
        self.registry = registry
        self._template = template
        self._chooser = Chooser(engine, template, self.metrics, conversation_margin, top_k)
        self.decisions = DecisionLog(registry.storage, decisions.keep if decisions else 0)
        self._recorder = DecisionRecorder(self.decisions, decisions or DecisionOptions())
        self.troubles.append(self._recorder.trouble)
        self._tracing = tracing or Tracing(TracingOptions())
        self._publication = Publication(engine, registry, extractor_for, knobs, base, drain_seconds, hot)
        residency = self._publication.residency
        self._room = EngineRoom(residency, knobs)
        self.metrics.leases.set_function(lambda: len(self._publication.leases))
        self.metrics.published.set_function(lambda: len(self._publication.versions))
        self.metrics.loaded.set_function(lambda: len(residency.resident))
        residency.on_move = lambda event: self.metrics.moves.labels(event).inc()
        self.metrics.waiting.set_function(lambda: self._room.waiting)
        self.metrics.manifest_number.set_function(lambda: self._publication.current.number)
        self.metrics.fenced.set_function(lambda: float(self.fenced is not None))

    @classmethod
    async def start(
        cls,
        options: EngineOptions,
        registry: Registry,
        extractor_for: Callable[[Manifest], FeatureExtractor],
        base: BaseRevision,
        *,
        max_prompts: int = MAX_PROMPTS,
        drain_seconds: float = DRAIN_SECONDS,
        conversation_margin: float = CONVERSATION_MARGIN,
        top_k: int = 1,
        hot: Awaitable[Sequence[str]] | None = None,
        layers: HostedLayers | None = None,
        decisions: DecisionOptions | None = None,
        tracing: TracingOptions | None = None,
    ) -> RoutedService:
        """Start vLLM and stand on the registry's current manifest before returning; its worker hosts `layers`.

        Raises EngineFailed, PrepareFailed, or LearningError for a model without a chat template; nothing is left
        running then.
        """
        # Late, so that nothing of vLLM is imported before the engine has set its environment, nor by those that bring
        # their own engine.
        from serving.vllm_engine import VllmEngine, begin

        # Before this process imports what takes long itself.
        begin(options)
        template = await asyncio.to_thread(_template, options)
        engine = await VllmEngine.start(options, template.chat_template)
        service = cls(
            engine,
            registry,
            extractor_for,
            template,
            options,
            base,
            max_prompts=max_prompts,
            drain_seconds=drain_seconds,
            conversation_margin=conversation_margin,
            top_k=top_k,
            hot=() if hot is None else await hot,
            decisions=decisions,
            tracing=Tracing(tracing) if tracing else None,
        )
        try:
            if layers is not None:
                await engine.host_layers(layers)
            await service.catch_up()
        except BaseException:
            await engine.stop()
            raise
        return service

    async def catch_up(self) -> None:
        """Stand on the registry's current manifest, also if that changes meanwhile."""
        while (manifest := await asyncio.to_thread(self.registry.current)) is not None:
            if manifest.number <= self._publication.current.number:
                return
            await self.prepare(manifest.number)
            await self.commit(manifest.number)

    # -- publication ------------------------------------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest | None:
        """The manifest that new requests are served from; None before the first publication."""
        return self._publication.current.manifest

    async def prepare(self, number: int) -> None:
        """Load what manifest `number` needs, beside what is in use; serve it, if that changes the base. Idempotent.

        Raises PrepareFailed; then the service is exactly as it was, or fenced where that could not be.
        """
        started = time.monotonic()
        try:
            await self._publication.prepare(number)
        except PrepareFailed:
            self.metrics.prepare_failures.inc()
            if self._publication.broken is not None:
                self.fence(self._publication.broken)
            raise
        self.metrics.prepare_seconds.observe(time.monotonic() - started)

    async def commit(self, number: int) -> None:
        """Serve a prepared manifest from the next request on. Idempotent. Raises NotPrepared."""
        await self._publication.commit(number)

    async def settle(self) -> None:
        """Return once every version that nothing needs any more is unloaded."""
        await self._publication.settle()

    @property
    def used(self) -> tuple[str, ...]:
        """Full names of the adapters in the engine, the one used last first."""
        return self._publication.residency.used

    # -- health -----------------------------------------------------------------------------------------------------

    def fence(self, reason: str) -> None:
        """Refuse requests from now on, with 503; those in flight finish."""
        self.fenced = reason

    def unfence(self) -> None:
        self.fenced = None

    @property
    def ready(self) -> bool:
        return not self.away and self.fenced is None and self.engine.failure is None

    def health(self) -> ReplicaHealth:
        """This replica's state. `versions` must not be deleted from the registry."""
        return ReplicaHealth(
            ready=self.ready,
            fenced=self.fenced,
            engine_failure=self.engine.failure,
            unload_failure=self._publication.residency.unload_failure,
            manifest=self._publication.current.number,
            prepared=self._publication.prepared,
            versions=self._publication.versions,
            loaded=self._publication.residency.resident,
            waiting=self._room.waiting,
            leases=len(self._publication.leases),
            trouble="; ".join(filter(None, (self.trouble, *(say() for say in self.troubles)))) or None,
        )

    async def stop(self, drain_seconds: float = 10.0) -> None:
        """Refuse new requests, let those in flight finish within `drain_seconds`, end the engine. Idempotent."""
        self.fence("stopping")
        deadline = time.monotonic() + drain_seconds
        while len(self._publication.leases) and self.engine.failure is None and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await self.settle()
        await self._publication.close()
        self._chooser.close()
        await self._recorder.close()
        await asyncio.to_thread(self._tracing.close)
        await self.engine.stop()

    # -- requests ---------------------------------------------------------------------------------------------------

    def served(self) -> ServedManifest:
        return self._publication.current

    async def chat(self, body: Mapping[str, Any], session: str | None = None, top_k: int | None = None) -> Reply:
        """Answer a chat completion request, which may belong to a session. Raises Refused or Unavailable."""
        return await self._answer("chat", body, session, top_k)

    async def complete(self, body: Mapping[str, Any], top_k: int | None = None) -> Reply:
        """Answer a completion request; with `auto`, each prompt is routed by itself. Raises Refused or Unavailable."""
        return await self._answer("completion", body, top_k=top_k)

    async def route(
        self,
        *,
        texts: Sequence[str] | None = None,
        messages: Sequence[Any] | None = None,
        top_k: int | None = None,
    ) -> RouteResult:
        """Decide without generating. A bare text is one user message; messages are read as a chat's."""
        self._check_open()
        served = self._publication.current
        if messages is not None:
            choices = await self._chooser.of_chat(served, messages, top_k)
        else:
            self._check_count(texts or (), "input")
            choices = await self._chooser.of_texts(served, texts or (), top_k)
        check_answerers(choice.domain for choice in choices)
        return routing(served, choices)

    async def _answer(
        self, kind: Kind, body: Mapping[str, Any], session: str | None = None, top_k: int | None = None
    ) -> Reply:
        self._check_open()
        call = self.engine.parse(kind, ended_by(body, self._template.terminator))
        check_model(call.model)
        self._check_count(call.prompts, "prompt")
        trace = self._tracing.begin(call)
        token = TRACE.set(trace)
        try:
            return await self._answered(call, session, top_k, trace)
        except BaseException as error:
            trace.end(error)
            raise
        finally:
            TRACE.reset(token)

    async def _answered(self, call: Call, session: str | None, top_k: int | None, trace: Trace) -> Reply:
        with trace.part("anabranch.admit"):
            await self._publication.admission.enter()
        self._check_open()
        lease = self._publication.leases.take(self._publication.current)
        # Also where a stream is never begun.
        lease.ends_with(trace.end)
        try:
            with trace.part("anabranch.route"):
                choices = await self._chooser.choose(lease.served, call, session, top_k)
            check_answerers(choice.domain for choice in choices)
            choices = [self._publication.composed(choice) for choice in choices]
            # The base is held as well: it may change. So are a composite's parts: it may have to be made.
            needed = {version for choice in choices for _, version in choice.answerers}
            lease.narrow(needed | {choice.version for choice in choices})
            result = routing(lease.served, choices)
            trace.routed(result)
            answer = trace.over(await self._generate(call, choices, lease))
        except BaseException as error:
            trace.end(error)
            lease.release()
            raise
        self.metrics.count(call.model or AUTO, choices)
        headers = stamp(lease.served, choices)
        self._recorder.note(call.model or AUTO, result, _decided_on(call))
        whole = result.model_dump(exclude={"decisions": {"__all__": {"scores"}}})
        told = {"system_fingerprint": f"{lease.served.number}:{headers['x-anabranch-adapter']}"}
        if isinstance(answer, dict):
            lease.release()
            return Reply(headers, body={**answer, **told, "anabranch": whole})
        return Reply(headers, events=LeasedEvents(announced(answer, told, {"anabranch": whole}), lease))

    async def _generate(self, call: Call, choices: Sequence[Choice], lease: Lease) -> Answer:
        groups = groups_of(choices)
        if len(groups) == 1:
            return await self._in_turn(call, groups[0].adapter, lease)
        calls = [
            self.engine.parse(call.kind, with_prompts(call.body, [call.prompts[p] for p in group.positions]))
            for group in groups
        ]
        answer = self._stream if call.stream else self._in_turn
        answers = await _all_or_none(
            [answer(own, group.adapter, lease) for own, group in zip(calls, groups, strict=True)]
        )
        if call.stream:
            return merged_events(groups, answers, call.samples)
        return merged(groups, answers, call.samples)

    async def _in_turn(self, call: Call, adapter: LoadedAdapter | None, lease: Lease) -> Answer:
        stay = self._room.stay(adapter, call.rows)
        lease.ends_with(stay.end)
        with TRACE.get().part("anabranch.admit"):
            await stay.begin()
        # Of a stream the generation lasts until its last event.
        with TRACE.get().part("anabranch.generate") if not call.stream else nullcontext():
            answer = await self.engine.generate(call, adapter, stay.end)
        if isinstance(answer, dict):
            stay.end()
        return answer

    async def _stream(self, call: Call, adapter: LoadedAdapter | None, lease: Lease) -> Answer:
        """One of several streams of a request: it waits for its turn when its first event is asked for, so that none
        holds a slot for which another waits."""
        stay = self._room.stay(adapter, call.rows)
        lease.ends_with(stay.end)
        async with self._room.in_place(adapter):
            answer = await self.engine.generate(call, adapter, stay.end)
        return answer if isinstance(answer, dict) else _staying(answer, stay)

    def _check_count(self, texts: Sequence[Any], param: str) -> None:
        if len(texts) > self._max_prompts:
            most, got = self._max_prompts, len(texts)
            raise bad_request(f"a request takes at most {most} prompts, got {got}; send them in several", param)

    def _check_open(self) -> None:
        if self.fenced is not None:
            raise Unavailable(f"this replica is fenced: {self.fenced}")
        if self.engine.failure is not None:
            raise Unavailable(f"this replica's engine is down: {self.engine.failure}")


def _decided_on(call: Call) -> list[str | None]:
    """The texts of a call, one a prompt; of a chat its last user message, of tokens none."""
    if call.kind == "chat":
        return [next((each["content"] for each in reversed(call.messages) if each.get("role") == "user"), None)]
    return [prompt if isinstance(prompt, str) else None for prompt in call.prompts]


async def _staying(events: AsyncGenerator[str, None], stay: Stay) -> AsyncGenerator[str, None]:
    async with aclosing(events):
        try:
            await stay.begin()
        except Unavailable as error:
            yield sent(error_body(str(error), "ServiceUnavailableError", 503))
            return
        async for each in events:
            yield each


async def _all_or_none(generations: Sequence[Any]) -> list[Any]:
    """Await all; if one is refused, stop the others and raise its error."""
    tasks = [asyncio.ensure_future(generation) for generation in generations]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        for answer in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(answer, AsyncGenerator):
                await answer.aclose()
        raise


def _template(options: EngineOptions) -> PromptTemplate:
    from learning.template import PromptTemplate

    return PromptTemplate(options.model, chat_template=options.chat_template, terminator=options.terminator)

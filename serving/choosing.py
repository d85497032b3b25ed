"""From a request to who answers each of its prompts: by the name it gives, by what its texts score, by its chat so far.

Knows the engine for parsing and decoding only, and no lease: whoever asks holds the manifest that is chosen from.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from learning.errors import LearningError
from serving.abstained import NOTHING_TO_CHOOSE
from serving.conversation import conversed, turns
from serving.decided import RememberedScoring
from serving.engine import Call, Engine
from serving.errors import Refused
from serving.metrics import ReplicaMetrics
from serving.openai_body import bad_request
from serving.options import CONVERSATION_MARGIN
from serving.score_queue import ScoreQueue
from serving.selection import Choice, Named, beside, by_content, by_name, by_segment, kept_by, of_domain
from serving.served import ServedDomain, ServedManifest
from serving.sessions import Answered, Sessions

if TYPE_CHECKING:
    from learning.template import PromptTemplate

# More than any tokenizer packs into one token; the longest known are runs of 128 spaces.
_CHARACTERS_PER_TOKEN = 128


class Chooser:
    """One replica's. `margin`: what a chat's last message must lead by to take it to another domain, in the scores'
    unit. `top_k`: domains that may answer as one, where a request does not say. Used on one event loop."""

    def __init__(
        self,
        engine: Engine,
        template: PromptTemplate,
        metrics: ReplicaMetrics,
        margin: float = CONVERSATION_MARGIN,
        top_k: int = 1,
    ) -> None:
        self._engine, self._template, self._metrics = engine, template, metrics
        self._margin, self._top_k = margin, top_k
        self._queue = ScoreQueue()
        self._scoring = RememberedScoring(self._queue, metrics.decided)
        self._sessions = Sessions()

    def close(self) -> None:
        """Score nothing more; who waits gets Unavailable."""
        self._queue.close()

    async def choose(
        self, served: ServedManifest, call: Call, session: str | None = None, top_k: int | None = None
    ) -> list[Choice]:
        """One choice per prompt of the call; a chat is one prompt, and may belong to a session. Raises Refused."""
        prompts = 1 if call.kind == "chat" else len(call.prompts)
        named = by_name(served, call.model)
        if named is None and served.scorer is None:
            named = Choice(None, abstained=NOTHING_TO_CHOOSE)
        if isinstance(named, Choice):
            return [named] * prompts
        try:
            texts = self._texts(call)
        except Refused:
            if named is None:
                raise
            # Whether the engine takes it all the same is for the engine to say.
            return [named.newest()] * prompts
        if call.kind == "chat":
            choices = [await self._of_chat(served, named, texts, session)]
        else:
            choices = await self._by_score(served, named, texts)
        return choices if named is not None else self._beside(served, choices, top_k)

    async def of_chat(
        self, served: ServedManifest, messages: Sequence[object], top_k: int | None = None
    ) -> list[Choice]:
        """The choice for a chat of these messages, as a request of them has it. Raises Refused."""
        parsed = self._engine.parse("chat", {"messages": list(messages)}).messages
        return self._beside(served, [await self._of_chat(served, None, self._turns(parsed), None)], top_k)

    async def of_texts(self, served: ServedManifest, texts: Sequence[str], top_k: int | None = None) -> list[Choice]:
        """One choice per text, each as a lone user message. Raises Refused."""
        rendered = [self._render([{"role": "user", "content": text}]) for text in texts]
        return self._beside(served, await self._by_score(served, None, rendered), top_k)

    def _beside(self, served: ServedManifest, choices: Sequence[Choice], top_k: int | None) -> list[Choice]:
        return [beside(served, choice, top_k or self._top_k, self._margin) for choice in choices]

    async def _of_chat(
        self, served: ServedManifest, named: Named | None, texts: Sequence[str], session: str | None
    ) -> Choice:
        """`texts`: of the first turn and, where there is another, the last."""
        before = None if session is None else self._sessions.get(session)
        if named is not None:
            # Within a domain all of a chat is its first message's segment.
            choice = self._kept(before, named) or (await self._by_score(served, named, texts[:1]))[0]
        elif before is not None and (kept := served.by_domain.get(before.domain)) is not None:
            last = (await self._by_score(served, None, texts[-1:], each=True))[0]
            first = kept_by(before, kept, last.decision) or of_domain(kept, last.decision)
            choice = conversed(served, first, last, self._margin)
        elif len(texts) == 1:
            choice = (await self._by_score(served, None, texts))[0]
        else:
            first, last = await self._by_score(served, None, texts, each=True)
            choice = conversed(served, first, last, self._margin)
        if session is not None and choice.adapter is not None:
            self._sessions.put(session, Answered(choice.domain, choice.version))
        return choice

    @staticmethod
    def _kept(before: Answered | None, named: Named) -> Choice | None:
        one, _ = named.parts[0]
        return kept_by(before, one) if named.is_alone and isinstance(one, ServedDomain) else None

    async def _by_score(
        self, served: ServedManifest, named: Named | None, texts: Sequence[str], *, each: bool = False
    ) -> list[Choice]:
        """One choice per text among all domains, or among the segments of those named; `each` lets a text that can't be
        scored be the base's, and else it is refused."""
        longest = max((len(text) for text in texts), default=0)
        if longest > _CHARACTERS_PER_TOKEN * self._engine.context_tokens:
            # The engine would refuse it anyway; scoring it first would keep everybody else's prompts waiting.
            context = f"the context length of {self._engine.context_tokens} tokens"
            raise bad_request(f"a prompt of {longest} characters is beyond {context}; shorten it")
        started = time.monotonic()
        if named is not None:
            choices = await by_segment(served, named, texts, self._scoring)
        else:
            try:
                choices = await by_content(served, texts, self._scoring, each=each)
            except LearningError as error:
                raise bad_request(f"the prompt can't be routed: {error}; name a model instead of auto") from error
        self._metrics.route_seconds.observe(time.monotonic() - started)
        return choices

    def _texts(self, call: Call) -> list[str]:
        if call.kind == "chat":
            return self._turns(call.messages)
        return [prompt if isinstance(prompt, str) else self._engine.decode(prompt) for prompt in call.prompts]

    def _turns(self, messages: Sequence[Mapping[str, str]]) -> list[str]:
        return [self._render(turn) for turn in turns(messages)]

    def _render(self, messages: Sequence[Mapping[str, str]]) -> str:
        try:
            return self._template.render(messages)
        except LearningError as error:
            raise bad_request(f"the chat template does not take these messages: {error}", "messages") from error

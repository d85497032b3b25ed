"""The engine port on vLLM: AsyncLLM in this process, its engine core as a child process.

On a CPU the core runs its worker in itself (VLLM_ENABLE_V1_MULTIPROCESSING=0): one child instead of two, each of which
would import everything again. The child kills itself when this process is gone (serving/lora_rows.py).

vLLM is imported by `start` only, after the environment that it reads at import has been set. Knows no manifest.
"""

from __future__ import annotations

import asyncio
import math
import os
import runpy
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learning.catalogue import located
from serving import fork_server
from serving.engine import Answer, Call, Engine, Kind, LoadedAdapter, Reading
from serving.errors import EngineFailed, Unavailable
from serving.options import PARENT_PID, EngineOptions
from serving.served import BASE

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM

    from serving.hosted_layers import HostedLayers
    from serving.openai_layer import OpenAILayer


class VllmEngine:
    """Made by `start`."""

    def __init__(self, llm: AsyncLLM, layer: OpenAILayer) -> None:
        self._llm = llm
        self._layer = layer
        self._requests: dict[str, LoRARequest] = {}
        self._probes = 0
        self._hosted: HostedLayers | None = None
        self._stopped = False

    @classmethod
    async def start(cls, options: EngineOptions, chat_template: str) -> VllmEngine:
        """Start an engine for `options`; `chat_template` is the effective one. Raises EngineFailed."""
        try:
            # In a thread: loading takes seconds, and the loop has other duties (health checks, other replicas).
            llm = await asyncio.to_thread(_start_llm, options)
        except Exception as error:
            raise EngineFailed(f"vLLM did not start for {options.model}: {error}") from error
        try:
            from serving.openai_layer import OpenAILayer

            layer = OpenAILayer(llm, options, chat_template)
            await layer.warm_up()
            engine = cls(llm, layer)
            # What compiles at its first use does so before anybody waits: for a batch of one, and for larger ones.
            await engine.probe(None)
            await asyncio.gather(engine.probe(None), engine.probe(None))
        except Exception as error:
            llm.shutdown(timeout=5)
            raise EngineFailed(f"vLLM started for {options.model} but does not answer: {error}") from error
        return engine

    @property
    def failure(self) -> str | None:
        if self._stopped:
            return "stopped"
        return "the engine process has died" if self._llm.errored else None

    @property
    def context_tokens(self) -> int:
        return int(self._llm.model_config.max_model_len)

    @property
    def dtype(self) -> str:
        return str(self._llm.model_config.dtype).removeprefix("torch.")

    async def load(self, adapter: LoadedAdapter, folder: Path | None) -> None:
        from vllm.lora.request import LoRARequest

        if folder is None:
            self._layer.serve(adapter.name, None)
            return
        request = LoRARequest(adapter.name, adapter.number, str(folder))
        await self._add(request)
        self._requests[adapter.name] = request
        self._layer.serve(adapter.name, request)

    async def _add(self, request: LoRARequest) -> None:
        try:
            await self._llm.add_lora(request)
        except Exception as error:
            self._check_alive()
            raise EngineFailed(f"vLLM can't load {request.lora_name} from {request.lora_path}: {error}") from error

    async def unload(self, adapter: LoadedAdapter) -> None:
        try:
            if adapter.rank:
                # False means that vLLM does not hold it, which is as good.
                await self._llm.remove_lora(adapter.number)
        except Exception as error:
            raise EngineFailed(f"vLLM can't unload {adapter.name}: {error}") from error
        self._requests.pop(adapter.name, None)
        self._layer.forget(adapter.name)

    async def change_base(self, delta: Path | None) -> None:
        try:
            # A probe that was given up may still be on its way out.
            await self._llm.pause_generation(mode="wait", clear_cache=True)
            try:
                await self._llm.collective_rpc("change_base", args=(None if delta is None else str(delta),))
                if not await self._llm.reset_prefix_cache():
                    raise RuntimeError("the prefix cache of the base before could not be dropped")
            finally:
                await self._llm.resume_generation()
        except Exception as error:
            self._check_alive()
            raise EngineFailed(f"vLLM can't take the change {delta} of its base: {error}") from error
        for request in list(self._requests.values()):
            # vLLM forgets all adapters with the weights they stood beside.
            await self._add(request)

    async def host_layers(self, layers: HostedLayers) -> None:
        """Have the engine's worker compute the router's lower layers. Raises EngineFailed."""
        try:
            await self._llm.collective_rpc("host_layers", args=tuple(layers.hosting))
        except Exception as error:
            raise EngineFailed(f"the engine's worker can't host the router's layers: {error}") from error
        self._hosted = layers
        layers.begun()

    async def probe(self, adapter: LoadedAdapter | None) -> None:
        from vllm import SamplingParams

        # Token ids, because what a tokenizer makes of a text is another matter; every vocabulary has these.
        output = await self._read(adapter, [0, 1, 2, 3], SamplingParams(max_tokens=1, temperature=0.0, logprobs=0))
        found = [each.logprob for candidates in output.outputs[0].logprobs or () for each in candidates.values()]
        if not found or not all(math.isfinite(logprob) for logprob in found):
            who = BASE if adapter is None else adapter.name
            raise EngineFailed(f"the likeliest token with {who} has log probability {found}, expected a finite one")

    async def losses(self, adapter: LoadedAdapter | None, rows: Sequence[Reading]) -> list[float]:
        from vllm import SamplingParams

        losses = []
        for row in rows:
            params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
            output = await self._read(adapter, list(row.ids), params)
            # The first token has none, as there is nothing before it.
            told = (output.prompt_logprobs or ())[row.prompt_tokens :]
            logprobs = [each[token].logprob for each, token in zip(told, row.ids[row.prompt_tokens :], strict=True)]
            losses.append(-sum(logprobs) / len(logprobs))
        return losses

    async def _read(self, adapter: LoadedAdapter | None, ids: list[int], params: Any) -> Any:
        """The engine's last output for a prompt of token ids."""
        from vllm import TokensPrompt

        self._probes += 1
        lora = None if adapter is None else self._requests.get(adapter.name)
        prompt, last = TokensPrompt(prompt_token_ids=ids), None
        try:
            async for output in self._llm.generate(prompt, params, f"probe-{self._probes}", lora_request=lora):
                last = output
        except Exception as error:
            self._check_alive()
            raise EngineFailed(f"a token with {BASE if adapter is None else adapter.name} fails: {error}") from error
        return last

    def parse(self, kind: Kind, body: Mapping[str, Any]) -> Call:
        return self._layer.parse(kind, body)

    async def generate(
        self, call: Call, adapter: LoadedAdapter | None, done: Callable[[], None] = lambda: None
    ) -> Answer:
        self._check_alive()
        answer = await self._layer.generate(call, BASE if adapter is None else adapter.name)
        return answer if isinstance(answer, dict) else _watched(answer, _Requests(call, done))

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._layer.decode(token_ids)

    def metrics(self) -> bytes:
        return self._layer.metrics()

    async def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            await asyncio.to_thread(self._llm.shutdown, 5)
            if self._hosted is not None:
                self._hosted.close()

    def _check_alive(self) -> None:
        if self.failure is not None:
            raise Unavailable(self.failure)


class _Requests:
    """Those that a call makes of the engine, one a prompt: `done` is called when the last has ended there."""

    def __init__(self, call: Call, done: Callable[[], None]) -> None:
        self._left, self._done = max(1, len(call.prompts)), done

    def see(self, output: Any) -> None:
        if getattr(output, "finished", False):
            self._left -= 1
            if not self._left:
                self._done()


_OF_CALL: ContextVar[_Requests | None] = ContextVar("of_call", default=None)


async def _watched(events: AsyncGenerator[str, None], requests: _Requests) -> AsyncGenerator[str, None]:
    """The same events. vLLM asks its engine when the first is asked for, in the context of whoever does."""
    _OF_CALL.set(requests)
    async with aclosing(events):
        async for event in events:
            yield event


def _set_environment(options: EngineOptions) -> None:
    """What vLLM and torch read from the environment, some of it at import. A value set by the operator stays."""
    # The child must outlive no one but this process, whoever set the variable before (a fork keeps it).
    os.environ[PARENT_PID] = str(os.getpid())
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if _is_cpu_build():
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        # Pinning threads to cores is for one engine that owns the machine.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        # With adapters vLLM compiles no model on a CPU, but single functions of its sampler, each at its first use and
        # for 15 s, while every request waits.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        if options.threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(options.threads)


def _is_cpu_build() -> bool:
    """Whether torch knows no GPU; asked of its file alone, since importing torch takes seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise EngineFailed("torch is not installed; set up the environment from requirements/")
    version = runpy.run_path(str(Path(spec.origin).parent / "version.py"))
    return version["cuda"] is None and version["hip"] is None


def begin(options: EngineOptions) -> None:
    """Begin what `VllmEngine.start` waits for most, the imports of the engine's process. Once is enough."""
    _set_environment(options)
    if _is_cpu_build():
        fork_server.start()


def _start_llm(options: EngineOptions) -> AsyncLLM:
    begin(options)
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    if _is_cpu_build():
        fork_server.serve_engines()

    class OwnedLLM(AsyncLLM):
        """Tells of a stream's end before anybody has taken it. Ends with `stop`, or by vLLM's own exit hook; its
        finaliser fails in an interpreter that is going down."""

        async def add_request(self, *of_request: Any, **more: Any) -> Any:
            queue = await super().add_request(*of_request, **more)
            if (requests := _OF_CALL.get()) is not None:
                put = queue.put

                def put_and_see(output: Any) -> None:
                    put(output)
                    requests.see(output)

                queue.put = put_and_see  # type: ignore[method-assign]
            return queue

        def __del__(self) -> None:
            pass

    return OwnedLLM.from_engine_args(AsyncEngineArgs(**_engine_arguments(options)))


def _engine_arguments(options: EngineOptions) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": located(options.model),
        "served_model_name": BASE,
        "dtype": options.dtype,
        "max_model_len": options.max_model_len,
        "enable_lora": True,
        # One more than requests may take: a publication's probe waits for none of them.
        "max_loras": options.max_loras + 1,
        "max_cpu_loras": options.max_cpu_loras + 1,
        "max_lora_rank": options.kernel_rank,
        "max_num_seqs": options.max_num_seqs + 1,
        "enforce_eager": options.enforce_eager,
        "worker_extension_cls": "serving.worker.EngineWorker",
        "enable_log_requests": False,
    }
    if options.kv_cache_bytes is not None:
        arguments["kv_cache_memory_bytes"] = options.kv_cache_bytes
    if options.gpu_memory_utilization is not None:
        arguments["gpu_memory_utilization"] = options.gpu_memory_utilization
    if options.reasoning_parser is not None:
        arguments["reasoning_parser"] = options.reasoning_parser
    if options.terminator is not None:
        # A model that ends its answers with a newline writes newlines without end where JSON allows whitespace and
        # the terminator is not the grammar's end. Compact JSON leaves it no such place.
        arguments["structured_outputs_config"] = {"backend": "xgrammar", "disable_any_whitespace": True}
    return arguments | options.engine


if TYPE_CHECKING:
    _: type[Engine] = VllmEngine

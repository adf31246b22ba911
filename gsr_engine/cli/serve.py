"""The command serve: the HTTP server as a process of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import types
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gsr_engine.cli import options
from gsr_engine.errors import GsrError, InvalidRequest, check_float

if TYPE_CHECKING:
    from gsr_engine.serving.async_engine import AsyncEngine
    from gsr_engine.serving.http.auth import Keys
    from gsr_engine.serving.http.settings import Settings

_log = logging.getLogger(__name__)

STATUS = (
    "Exit status: 0 after SIGTERM or Ctrl-C, 1 if the engine died, 2 if a value, the model or the "
    "address is refused. A second signal ends it at once."
)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")

ModelArgument = Annotated[
    str | None,
    typer.Argument(
        help="Checkpoint folder, GGUF file or hub id. [default: nano, the model in the box]",
        metavar="MODEL",
        show_default=False,
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option(help="The model's id. [default: its hub id or folder]", show_default=False),
]
ApiKey = Annotated[
    list[str] | None,
    typer.Option(
        help="A key that clients must send; give it again for more. Other users of the machine can "
        "see it: rather use the file, or the variable GSR_API_KEYS.",
        show_default=False,
    ),
]
ApiKeyFile = Annotated[
    Path | None, typer.Option(help="File of keys, one a line.", show_default=False)
]


def serve(
    model: ModelArgument = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: ApiKey = None,
    api_key_file: ApiKeyFile = None,
    model_name: ModelName = None,
    adapter: options.Adapter = None,
    template: options.Template = None,
    generation_config: options.GenerationConfig = None,
    dtype: options.Dtype = "auto",
    quantization: options.Quantization = "auto",
    speculative_config: options.SpeculativeConfig = None,
    max_model_len: options.MaxModelLen = None,
    kv_cache_gib: options.KvCacheGib = None,
    threads: options.Threads = None,
    max_pending: Annotated[
        int, typer.Option(help="Most unfinished requests; further ones get 503.")
    ] = 256,
    default_k: Annotated[int, typer.Option(help="Candidates where none are named.")] = 4,
    max_k: Annotated[int, typer.Option(help="Most candidates of a request.")] = 64,
    max_n: Annotated[int, typer.Option(help="Most answers of a request.")] = 64,
    max_tokens: Annotated[
        int | None,
        typer.Option(help="Most tokens of each stream. [default: the context]", show_default=False),
    ] = None,
    max_body_bytes: Annotated[int, typer.Option(help="Longest body.")] = 2 << 20,
    default_chat_template_kwargs: options.ChatTemplateKwargs = None,
    keep_alive_seconds: Annotated[
        float, typer.Option(help="Silence after which a stream gets a comment.")
    ] = 15.0,
    step_timeout: Annotated[
        float, typer.Option(help="Seconds of one step after which /health fails.")
    ] = 300.0,
    shutdown_delay: Annotated[
        float, typer.Option(help="Seconds after SIGTERM for which requests are still taken.")
    ] = 5.0,
    shutdown_timeout: Annotated[
        float, typer.Option(help="Seconds that requests in flight then get.")
    ] = 30.0,
    log_format: Annotated[
        Literal["text", "json"], typer.Option(help="Lines of the log on stderr.")
    ] = "text",
    log_text: Annotated[
        bool, typer.Option("--log-text", help="Log the texts of prompts and answers.")
    ] = False,
    vllm_metrics: Annotated[
        bool, typer.Option("--vllm-metrics", help="Give metrics vLLM's names, too.")
    ] = False,
    page: Annotated[bool, typer.Option(help="A page for browsers at /.")] = True,
) -> None:
    """Serve a model over OpenAI's API, with selfRef@k as an option of every request."""
    _check_extra()
    from gsr_engine.serving.http.settings import Settings

    stages = {
        "shutdown_delay": check_float("shutdown_delay", shutdown_delay, 0, 1e6),
        "shutdown_timeout": check_float("shutdown_timeout", shutdown_timeout, 0, 1e6),
    }
    variables = options.json_object("default_chat_template_kwargs", default_chat_template_kwargs)
    keys = _keys(api_key, api_key_file)
    settings = Settings(
        model_name=model_name or _name_of(model),
        default_k=default_k,
        max_k=max_k,
        max_n=max_n,
        max_tokens=max_tokens,
        max_body_bytes=max_body_bytes,
        default_chat_template_kwargs=variables or {},
        keep_alive_seconds=keep_alive_seconds,
        step_timeout=step_timeout,
        log_text=log_text,
        vllm_metrics=vllm_metrics,
        page=page,
    )
    engine_options = {
        "max_pending": max_pending,
        "adapter": adapter,
        "template": template,
        "generation_config": generation_config,
        "dtype": dtype,
        "quantization": quantization,
        "speculative_config": options.json_object("speculative_config", speculative_config),
        "max_model_len": max_model_len,
        "kv_cache_gib": kv_cache_gib,
        "threads": threads,
    }
    _log_to_stderr(log_format)
    if keys is None and host not in _LOOPBACK:
        _log.warning("no API key: whoever reaches %s may use the model", host)
    signal.signal(signal.SIGTERM, _leave)  # while it loads; process 1 of a container ignores it
    raise typer.Exit(_run(model, (host, port), keys, settings, engine_options, stages))


def _leave(number: int, _frame: types.FrameType | None) -> None:
    os._exit(128 + number)


def _check_extra() -> None:
    """Raise GsrError unless the packages of the server are there."""
    for package in ("fastapi", "uvicorn", "prometheus_client"):
        try:
            import_module(package)
        except ImportError:
            raise GsrError(f"serve needs {package}: pip install 'gsr-engine[serve]'") from None


def _name_of(model: str | None) -> str:
    """The id of a model in the API: nano, its hub id, or the name of its folder or file."""
    if model is None:
        return "nano"
    path = Path(model)
    return path.resolve().name.removesuffix(".gguf") if path.exists() else model


def _keys(given: list[str] | None, file: Path | None) -> Keys | None:
    """The keys of the flags, of the file, or else of the environment; None if there are none."""
    from gsr_engine.serving.http.auth import Keys

    if given and file is not None:
        raise InvalidRequest("api_key", "contradicts api_key_file")
    if file is not None:
        return Keys.from_file(file)
    return Keys(given) if given else Keys.from_environment()


def _log_to_stderr(log_format: str) -> None:
    """What the engine and the server log, and warnings of everybody else, as lines on stderr."""
    from gsr_engine.serving.http.request_log import JsonLines

    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if log_format == "json" else text)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("gsr_engine").setLevel(logging.INFO)
    logging.captureWarnings(True)


def _load(model: str | None, engine_options: dict[str, Any]) -> AsyncEngine:
    from gsr_engine.demo.report import NANO
    from gsr_engine.serving.async_engine import AsyncEngine

    return AsyncEngine.from_pretrained(model or NANO, **engine_options)


def _run(
    model: str | None,
    address: tuple[str, int],
    keys: Keys | None,
    settings: Settings,
    engine_options: dict[str, Any],
    stages: dict[str, float],
) -> int:
    """Load the model, listen, serve; the status for the process."""
    from gsr_engine.serving.http.app import app_of, make_server
    from gsr_engine.serving.http.service import Service, bind

    listener = bind(*address)  # it does not listen until the model is there
    engine = _load(model, engine_options)
    server = make_server(engine, auth=keys, settings=settings)
    service = Service(app_of(server), engine, server.health, **stages)

    def started() -> None:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        _log.info("serving %s at http://%s:%d", settings.model_name, shown, port)

    return asyncio.run(service.run(listener, started))

"""gsr_engine: parallel refinement (selfRef@k) on one shared KV cache.

Public names are resolved on first use (PEP 562), because importing torch takes seconds: neither
`gsr --help` nor a module that needs only `gsr_engine.errors` waits for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gsr_engine.checkpoint.gsr_config import GsrConfig
    from gsr_engine.config import EngineConfig
    from gsr_engine.engine import Engine
    from gsr_engine.errors import (
        CheckpointError,
        EngineBusy,
        EngineClosed,
        EngineForked,
        GsrError,
        InvalidRequest,
        OutOfMemory,
        OutOfPages,
        PoolCorrupted,
        PoolTooSmall,
        QueueFull,
        UnsupportedModel,
    )
    from gsr_engine.outputs import (
        Completion,
        GenerateResult,
        PhaseUsage,
        PromptLogprobs,
        RefineResult,
        Usage,
    )
    from gsr_engine.params import SamplingParams, SelfRefineParams
    from gsr_engine.programs.program import program
    from gsr_engine.programs.template import Template
    from gsr_engine.repetition import RepetitionDetectionParams
    from gsr_engine.serving.async_engine import AsyncEngine, final_result
    from gsr_engine.serving.events import (
        CandidateDone,
        CandidateToken,
        Event,
        Final,
        PhaseStarted,
        RefineToken,
        Submitted,
    )

__all__ = [
    "AsyncEngine",
    "CandidateDone",
    "CandidateToken",
    "CheckpointError",
    "Completion",
    "Engine",
    "EngineBusy",
    "EngineClosed",
    "EngineConfig",
    "EngineForked",
    "Event",
    "Final",
    "GenerateResult",
    "GsrConfig",
    "GsrError",
    "InvalidRequest",
    "OutOfMemory",
    "OutOfPages",
    "PhaseStarted",
    "PhaseUsage",
    "PoolCorrupted",
    "PoolTooSmall",
    "PromptLogprobs",
    "QueueFull",
    "RefineResult",
    "RefineToken",
    "RepetitionDetectionParams",
    "SamplingParams",
    "SelfRefineParams",
    "Submitted",
    "Template",
    "UnsupportedModel",
    "Usage",
    "final_result",
    "program",
]

_MODULES = {
    "checkpoint.gsr_config": ("GsrConfig",),
    "config": ("EngineConfig",),
    "engine": ("Engine",),
    "errors": (
        "CheckpointError",
        "EngineBusy",
        "EngineClosed",
        "EngineForked",
        "GsrError",
        "InvalidRequest",
        "OutOfMemory",
        "OutOfPages",
        "PoolCorrupted",
        "PoolTooSmall",
        "QueueFull",
        "UnsupportedModel",
    ),
    "outputs": (
        "Completion",
        "GenerateResult",
        "PhaseUsage",
        "PromptLogprobs",
        "RefineResult",
        "Usage",
    ),
    "params": ("SamplingParams", "SelfRefineParams"),
    "programs.program": ("program",),
    "programs.template": ("Template",),
    "repetition": ("RepetitionDetectionParams",),
    "serving.async_engine": ("AsyncEngine", "final_result"),
    "serving.events": (
        "CandidateDone",
        "CandidateToken",
        "Event",
        "Final",
        "PhaseStarted",
        "RefineToken",
        "Submitted",
    ),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # the next access finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

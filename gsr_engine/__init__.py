"""gsr_engine: parallel refinement (selfRef@k) on one shared KV cache."""

from gsr_engine.checkpoint.gsr_config import GsrConfig, Template
from gsr_engine.config import EngineConfig
from gsr_engine.engine import Engine
from gsr_engine.errors import (
    CheckpointError,
    EngineClosed,
    GsrError,
    InvalidRequest,
    OutOfMemory,
    OutOfPages,
    PoolCorrupted,
    QueueFull,
    UnsupportedModel,
)
from gsr_engine.outputs import Completion, GenerateResult, PhaseUsage, RefineResult, Usage
from gsr_engine.params import SamplingParams, SelfRefineParams
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

__version__ = "0.1.0"

__all__ = [
    "AsyncEngine",
    "CandidateDone",
    "CandidateToken",
    "CheckpointError",
    "Completion",
    "Engine",
    "EngineClosed",
    "EngineConfig",
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
    "QueueFull",
    "RefineResult",
    "RefineToken",
    "SamplingParams",
    "SelfRefineParams",
    "Submitted",
    "Template",
    "UnsupportedModel",
    "Usage",
    "final_result",
]

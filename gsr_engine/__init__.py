"""gsr_engine: parallel refinement (selfRef@k) on one shared KV cache."""

from gsr_engine.config import EngineConfig
from gsr_engine.engine import Engine
from gsr_engine.errors import (
    CheckpointError,
    EngineClosed,
    GsrError,
    InvalidRequest,
    OutOfPages,
    PoolCorrupted,
    UnsupportedModel,
)
from gsr_engine.gsr_config import GsrConfig, Template
from gsr_engine.outputs import Completion, GenerateResult, PhaseUsage, RefineResult, Usage
from gsr_engine.params import SamplingParams, SelfRefineParams

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Completion",
    "Engine",
    "EngineClosed",
    "EngineConfig",
    "GenerateResult",
    "GsrConfig",
    "GsrError",
    "InvalidRequest",
    "OutOfPages",
    "PhaseUsage",
    "PoolCorrupted",
    "RefineResult",
    "SamplingParams",
    "SelfRefineParams",
    "Template",
    "UnsupportedModel",
    "Usage",
]

"""The settings of an engine: frozen, and checked when they are created."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gsr_engine.checkpoint.model_config import MOST_POSITIONS, ModelConfig
from gsr_engine.errors import (
    InvalidRequest,
    check_bool,
    check_float,
    check_int,
    shown,
)
from gsr_engine.speculation import SpeculativeConfig

SUPPORTED_DTYPES = ("float32", "bfloat16")
Quantization = Literal["none", "int8", "fp8"]
"""The arithmetic of matrix products: that of the dtype, exact integers, or floats of 8 bits."""
MOST_STREAMS = 1 << 16
"""Upper limit of `max_num_seqs`, because buffers are made for each of them."""
MOST_BATCH_TOKENS = 1 << 24
"""Upper limit of `max_batch_tokens`, because a step may be as large as that."""
MOST_KV_GIB = 1e6
_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")
MOST_THREADS = 1024
"""Upper limit of `threads`; OpenMP ends the process if the system refuses it one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How the engine runs.

    Attributes:
        dtype: "float32", "bfloat16" or "auto". "auto" takes the checkpoint's; a float16 checkpoint
            runs in bfloat16. On a CPU that cannot multiply bfloat16 "auto" is float32: there
            bfloat16 takes half the memory, and up to four times as long. With quantization "int8"
            "auto" is float32: the dtype of embedding, norms, what flows between layers, and KV.
        quantization: what layers and head multiply in: "none" (the dtype), "int8", "fp8" or "auto".
            "int8" is for CPUs: weights and rows have a scale for every 64 inputs, and sums are
            exact, so a row's bits depend on nobody's company. "fp8" is for GPUs: weights have a
            scale per output, rows one each, and head and experts stay in bfloat16. "auto" is "int8"
            for a GGUF file of quantised tensors on a CPU, and "fp8" for a checkpoint in fp8 without
            experts on a GPU that multiplies it, else "none".
        device: "cpu", "cuda" (the NVIDIA GPU that is current where the engine is made), "cuda:1"
            (that one), or "auto": cuda if there is a GPU.
        max_model_len: longest context in tokens; None takes the checkpoint's maximum, which yarn
            stretches to its factor times the original length.
        kv_cache_gib: memory for KV pages, in GiB. None takes half of what is free after the
            weights on a CPU; a page takes memory once it is written. So give each of several
            engines on one machine its own. On a GPU None takes the part of
            `gpu_memory_utilization` that weights and the largest step leave.
        gpu_memory_utilization: share of the GPU's memory that the engine may use.
        max_num_seqs: most streams that decode at the same time.
        max_batch_tokens: most tokens of one step, prompts and streams together. A longer prompt is
            computed in chunks.
        threads: torch's number of CPU threads while the engine loads and steps. None takes the
            smallest of torch's own number, the cores of the process's affinity, and the control
            group's CPU quota, rounded up. A given number is taken as it is, also above these.
            Torch's number is set in the thread that loads or steps, and put back afterwards. Only
            a thread that first uses torch meanwhile begins with the engine's number.
        prefix_cache: keep the KV of prompts for later prompts with the same beginning.
        share_spans: on a GPU, read a span once for all streams that see it, if that is faster.
        cuda_graphs: on a GPU, replay decode steps as graphs.
        speculative_config: lookup decoding, e.g. `{"method": "ngram"}`: fields of
            `SpeculativeConfig`. A stream proposes what followed its last tokens where they stood
            before in what it sees, and one step verifies all of it. None is off.
    """

    dtype: str = "auto"
    quantization: Literal["auto"] | Quantization = "auto"
    device: str = "auto"
    max_model_len: int | None = None
    kv_cache_gib: float | None = None
    gpu_memory_utilization: float = 0.9
    max_num_seqs: int = 512
    max_batch_tokens: int = 8192
    threads: int | None = None
    prefix_cache: bool = True
    share_spans: bool = True
    cuda_graphs: bool = True
    speculative_config: SpeculativeConfig | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raise InvalidRequest for a value out of range."""
        if self.dtype not in ("auto", *SUPPORTED_DTYPES):
            raise InvalidRequest(
                "dtype", f"must be auto, {' or '.join(SUPPORTED_DTYPES)}, got {shown(self.dtype)}"
            )
        known = get_args(Quantization)
        if self.quantization not in ("auto", *known):
            raise InvalidRequest(
                "quantization",
                f"must be auto, {', '.join(known[:-1])} or {known[-1]}, "
                f"got {shown(self.quantization)}",
            )
        if not (isinstance(self.device, str) and _DEVICE.fullmatch(self.device)):
            raise InvalidRequest(
                "device", f"must be auto, cpu, cuda or cuda:N, got {shown(self.device)}"
            )
        for name, most in (
            ("max_model_len", MOST_POSITIONS),
            ("max_num_seqs", MOST_STREAMS),
            ("max_batch_tokens", MOST_BATCH_TOKENS),
            ("threads", MOST_THREADS),
        ):
            value = getattr(self, name)
            if value is not None or name not in ("max_model_len", "threads"):
                object.__setattr__(self, name, check_int(name, value, 1, most))
        for name in ("prefix_cache", "share_spans", "cuda_graphs"):
            check_bool(name, getattr(self, name))
        speculation = SpeculativeConfig.of(self.speculative_config)
        object.__setattr__(self, "speculative_config", speculation)
        self._check_memory()
        if self.max_batch_tokens < self.max_num_seqs:
            raise InvalidRequest(
                "max_batch_tokens",
                f"{self.max_batch_tokens} is below max_num_seqs {self.max_num_seqs}: "
                "a step could not feed every stream",
            )

    def _check_memory(self) -> None:
        for name, most in (("kv_cache_gib", MOST_KV_GIB), ("gpu_memory_utilization", 1.0)):
            value = getattr(self, name)
            if value is None and name == "kv_cache_gib":
                continue
            object.__setattr__(self, name, check_float(name, value, 0.0, most))
            if value == 0:
                raise InvalidRequest(name, f"must be above 0, at most {most:g}, got 0")

    @property
    def speculation(self) -> SpeculativeConfig | None:
        """`speculative_config` as it was checked."""
        return SpeculativeConfig.of(self.speculative_config)

    @property
    def most_draws(self) -> int:
        """Upper limit of the tokens that one step draws: one per stream, and drafts."""
        drafts = self.speculation.num_speculative_tokens if self.speculation else 0
        return min(self.max_num_seqs + drafts, self.max_batch_tokens)

    def model_length(self, model: ModelConfig) -> int:
        """Longest context in tokens for a checkpoint.

        Raises:
            InvalidRequest: `max_model_len` is above the checkpoint's maximum.
        """
        length = self.max_model_len or model.max_position
        if length > model.max_position:
            raise InvalidRequest(
                "max_model_len",
                f"{length} is above the checkpoint's {model.max_position} ({_stretched(model)})",
            )
        return length


def _stretched(model: ModelConfig) -> str:
    """Where a checkpoint's length comes from, and how it becomes longer."""
    if model.rope["rope_type"] == "yarn":
        original = model.rope["original_max_position_embeddings"]
        return f"yarn: factor {model.rope['factor']:g} times {original}, in its config.json"
    return "max_position_embeddings; a rope_scaling of type yarn in its config.json stretches it"

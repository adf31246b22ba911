"""The settings of a server: frozen, and checked when they are created."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gsr_engine.errors import InvalidRequest, check_bool, check_float, check_int, shown
from gsr_engine.params import MAX_CANDIDATES

MOST_BODY = 1 << 30
"""Upper limit of `max_body_bytes`: a body is held in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a server answers; each field is a flag of `gsr serve`.

    Attributes:
        model_name: the model's id in `/v1/models`, and what requests call it.
        default_k: candidates of a request that says no number, and the k of the id that
            `/v1/models` lists.
        max_k: most candidates of a request.
        max_n: most answers of a request, and most refinements of a round.
        max_tokens: most tokens of one stream, also of a request that says no number; None leaves
            it to the context.
        max_body_bytes: longest body of a request.
        default_chat_template_kwargs: variables of the chat template, under those of a request.
        keep_alive_seconds: seconds without an event after which a stream says that it lives.
        step_timeout: seconds of one step after which the engine counts as stuck.
        log_text: whether the log has the texts of prompts and answers.
        vllm_metrics: whether `/metrics` has vLLM's names beside ours.
        page: whether `/` is a page for a browser.

    Raises:
        InvalidRequest: a value is out of range.
    """

    model_name: str = "default"
    default_k: int = 4
    max_k: int = 64
    max_n: int = 64
    max_tokens: int | None = None
    max_body_bytes: int = 2 << 20
    default_chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    keep_alive_seconds: float = 15.0
    step_timeout: float = 300.0
    log_text: bool = False
    vllm_metrics: bool = False
    page: bool = True

    def __post_init__(self) -> None:
        """Raise InvalidRequest for a value out of range."""
        if not isinstance(self.model_name, str) or not self.model_name:
            raise InvalidRequest("model_name", f"must be text, got {shown(self.model_name)}")
        check_int("max_k", self.max_k, 1, MAX_CANDIDATES)
        check_int("default_k", self.default_k, 1, self.max_k)
        check_int("max_n", self.max_n, 1, MAX_CANDIDATES)
        if self.max_tokens is not None:
            check_int("max_tokens", self.max_tokens, 1, 2**31 - 1)
        check_int("max_body_bytes", self.max_body_bytes, 1, MOST_BODY)
        for name in ("keep_alive_seconds", "step_timeout"):
            check_float(name, getattr(self, name), 0.01, 1e9)
        for name in ("log_text", "vllm_metrics", "page"):
            check_bool(name, getattr(self, name))

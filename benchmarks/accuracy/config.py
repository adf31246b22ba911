"""The settings of an accuracy run, and what they mean for the engine."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from gsr_engine import Engine, InvalidRequest, SamplingParams, SelfRefineParams
from gsr_engine.params import LAYOUTS, Layout, View


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyConfig:
    """Settings of a run.

    Attributes:
        k: Candidate counts, comma separated; the largest is drawn.
        layouts: Comma separated. Default: what the model claims.
        force_layout: Measure a layout that the model was not trained for, too.
        max_tokens: Per candidate and refinement.
        temperature: Of the candidates.
        top_p: Of the candidates: smallest set of tokens of this mass.
        view: What a refinement is shown of a candidate: the text after its thinking, or all.
        summary_tokens: Most tokens of a candidate that are shown.
        order: In which a linear refinement reads the candidates.
        seed: Of puzzles and streams.

    Raises:
        InvalidRequest: a setting is out of range.
    """

    k: str = "1,2,4,8"
    layouts: str | None = None
    force_layout: bool = False
    max_tokens: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0
    view: View = "summary"
    summary_tokens: int = 1000
    order: Literal["shuffled", "as_generated"] = "shuffled"
    seed: int = 1

    def __post_init__(self) -> None:
        """Raise InvalidRequest for values that cannot be."""
        if not re.fullmatch(r"\d+(,\d+)*", self.k, re.ASCII):
            raise InvalidRequest("k", f"must be candidate counts, comma separated, got {self.k!r}")
        for k in self.ks:
            for layout in self.chosen_layouts(LAYOUTS):
                self.refine_params(layout, k)
        self.draw_params(max(self.ks), self.temperature)

    @property
    def ks(self) -> tuple[int, ...]:
        """The candidate counts, ascending."""
        return tuple(sorted({int(part) for part in self.k.split(",")}))

    @property
    def headline(self) -> int:
        """The k of the cost run, of T=1 refinement and of the table's main row."""
        return 4 if 4 in self.ks else self.ks[-1]

    def chosen_layouts(self, claimed: tuple[Layout, ...]) -> tuple[Layout, ...]:
        """The layouts to measure of a model that claims some."""
        if self.layouts is None:
            return claimed
        return cast("tuple[Layout, ...]", tuple(dict.fromkeys(self.layouts.split(","))))

    def draw_params(self, n: int, temperature: float) -> SamplingParams:
        """Of n direct solutions; greedy ones see all tokens."""
        top_p = self.top_p if temperature else 1.0
        return SamplingParams(
            n=n,
            temperature=temperature,
            top_p=top_p,
            max_tokens=self.max_tokens,
            seed=self.seed,
        )

    def refine_params(self, layout: Layout, k: int, temperature: float = 0.0) -> SelfRefineParams:
        """Of selfRef@k, at this temperature of the refinement."""
        return SelfRefineParams(
            k=k,
            layout=layout,
            candidate=SamplingParams(
                temperature=self.temperature, top_p=self.top_p, max_tokens=self.max_tokens
            ),
            refine=SamplingParams(temperature=temperature, max_tokens=self.max_tokens),
            seed=self.seed,
            view=self.view,
            summary_tokens=self.summary_tokens,
            order=self.order,
            force_layout=self.force_layout,
        )

    def settings(self, engine: Engine) -> dict[str, Any]:
        """Everything that shapes a result beside problems, weights and tokenizer; plain values."""
        gsr = engine.gsr
        own = {name: asdict(self)[name] for name in AccuracyConfig.__dataclass_fields__}
        return {
            **own,
            "k": list(self.ks),
            "layouts": list(self.chosen_layouts(gsr.layouts)),
            "headline": self.headline,
            "dtype": engine.dtype,
            "quantization": engine.quantization,
            "template": gsr.template.hash,
            "chat_template": _digest(engine.direct_prompt("1 + 1")),
            "thinking": list(engine.tokenizer.thinking or ()),
            "answer_pattern": gsr.answer_pattern,
            "candidate_kv": gsr.candidate_kv,
            "refine_position": gsr.refine_position,
            "max_model_len": engine.limits.max_model_len,
        }


def _digest(prompt: list[int]) -> str:
    """What the chat template and the texts around a problem make of it."""
    return hashlib.sha256(json.dumps(prompt).encode()).hexdigest()[:16]

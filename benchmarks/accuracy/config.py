"""The settings of an accuracy run, and what they mean for an engine."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from benchmarks.accuracy.generator import Draw
from benchmarks.accuracy.methods import MethodOptions
from benchmarks.samples.method import Method
from gsr_engine.params import LAYOUTS, Layout, SamplingParams, SelfRefineParams
from gsr_engine.seeds import derive_seed
from train.options import check_least

_REPEAT = -1  # no index of a problem: the seeds of repeats and of problems are different ones


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyConfig(MethodOptions):
    """Settings of a run: the methods, and how everything is sampled.

    Attributes:
        max_tokens: Per candidate and refinement.
        top_p: Of the candidates: smallest set of tokens of this mass.
        summary_tokens: Most tokens of a candidate that are shown.
        order: In which a linear refinement reads the candidates.
        seed: Of puzzles and streams.
        repeats: Times that everything is drawn anew; the first is as if it were alone.

    Raises:
        InvalidRequest: a setting is out of range.
    """

    max_tokens: int = 1024
    top_p: float = 1.0
    summary_tokens: int = 1000
    order: Literal["shuffled", "as_generated"] = "shuffled"
    seed: int = 1
    repeats: int = 1

    def __post_init__(self) -> None:
        """Raise InvalidRequest for values that cannot be."""
        MethodOptions.__post_init__(self)  # super() fails in a class with slots
        check_least(self, repeats=1)
        self.draw_params(self.draw(0))
        for method in self.chosen_methods(LAYOUTS):
            if method.layout is not None:
                self.refine_params(method, self.seed)

    def seed_of(self, repeat: int) -> int:
        """The seed of a repeat's draws, orders and refinements."""
        return derive_seed(self.seed, _REPEAT, repeat) if repeat else self.seed

    def draw(self, repeat: int) -> Draw:
        """The candidates of a repeat."""
        return Draw(count=self.ks[-1], seed=self.seed_of(repeat))

    def draw_params(self, draw: Draw) -> SamplingParams:
        """Of candidates."""
        return SamplingParams(
            n=draw.count,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=draw.seed,
        )

    def greedy_params(self) -> SamplingParams:
        """Of the direct solution at temperature 0."""
        return SamplingParams(temperature=0.0, max_tokens=self.max_tokens, seed=self.seed)

    def refine_params(self, method: Method, seed: int) -> SelfRefineParams:
        """Of a method that refines."""
        return SelfRefineParams(
            k=method.k,
            layout=method.layout or "linear",
            candidate=replace(self.draw_params(self.draw(0)), n=1, seed=None),
            refine=SamplingParams(temperature=method.temperature, max_tokens=self.max_tokens),
            seed=seed,
            view=method.view,
            summary_tokens=self.max_tokens if method.kind == "views" else self.summary_tokens,
            order="as_generated" if method.order else self.order,
            widths=method.widths,
            subset=method.subset,
            refinements=method.refinements,
            template=method.template,
            # No checkpoint was trained to merge by a foreign prompt.
            force_layout=self.force_layout or method.kind == "fusion",
        )

    def settings(self, claimed: tuple[Layout, ...]) -> dict[str, Any]:
        """Everything here that shapes a result, for a model that claims some layouts."""
        own = {name: asdict(self)[name] for name in AccuracyConfig.__dataclass_fields__}
        of_methods = ("widths", "subset", "orders", "pools")
        return {name: value for name, value in own.items() if name not in of_methods} | {
            "k": list(self.ks),
            "layouts": list(self.chosen_layouts(claimed)),
            "headline": self.headline,
            "methods": [
                {**asdict(one), "widths": list(one.widths)} for one in self.chosen_methods(claimed)
            ],
        }

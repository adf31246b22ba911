"""What the parameters of a selfRef@k request ask for, and its checkpoint or engine cannot do."""

from __future__ import annotations

from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.errors import InvalidRequest
from gsr_engine.params import SelfRefineParams
from gsr_engine.requests.limits import Limits


def check_layout(params: SelfRefineParams, gsr: GsrConfig) -> None:
    """Raise InvalidRequest for a layout that template or checkpoint do not have."""
    if params.layout == "branched":
        gsr.template.branched_text()
    if params.layout not in gsr.layouts and not params.force_layout:
        claims = f"its gsr.json claims {', '.join(gsr.layouts)}" if gsr.trained else "no gsr.json"
        raise InvalidRequest(
            "layout",
            f"the checkpoint was not trained for {params.layout!r} ({claims}); "
            "force_layout=True tries it all the same",
        )


def check_answers(params: SelfRefineParams, gsr: GsrConfig) -> None:
    """Raise InvalidRequest if answers are to be compared that the template asks in no form for."""
    if params.agreement and not gsr.template.answer_form:
        raise InvalidRequest(
            "agreement",
            f"compares answers, and the template {gsr.template.name} states no answer form",
        )


def check_streams(params: SelfRefineParams, limits: Limits, generates: bool) -> None:
    """Raise InvalidRequest for a round with more streams than decode at a time."""
    if generates:
        limits.check_streams("k", params.k)
    for width in params.widths:
        limits.check_streams("widths", width)
    limits.check_streams("refinements", params.refinements)


def check_generates(params: SelfRefineParams) -> None:
    """Raise InvalidRequest for what needs candidates that are not given but generated."""
    for name, asked in (
        ("order", params.order == "as_finished"),
        ("agreement", params.agreement > 0),
        ("first", params.first > 0),
    ):
        if asked:
            value = getattr(params, name)
            raise InvalidRequest(name, f"{value} needs candidates that are generated")

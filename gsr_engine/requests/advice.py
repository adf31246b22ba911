"""Warnings about settings that gained little or did harm in the literature, or that do not fit."""

from __future__ import annotations

import warnings

from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.params import SamplingParams, SelfRefineParams

_WARNED: dict[object, object] = {}
"""What Python keeps so that it shows the same warning once."""


def advise(text: str) -> None:
    """Warn in one line, and once for each text (unless Python's filters say otherwise).

    A request may be made in another thread than the caller's, or by another engine, so no line of
    the caller's code is shown.
    """
    warnings.warn_explicit(text, UserWarning, "gsr_engine", 0, "gsr_engine", _WARNED)  # type: ignore[arg-type]


def warn_beyond_evidence(params: SelfRefineParams, gsr: GsrConfig) -> None:
    """Warn of settings that the literature advises against.

    What is known of GSR's prompts says nothing of another published program, so a request that
    names a template of one gets no warning.
    """
    if params.template is not None:
        return
    if params.most_shown > 10:
        advise(
            f"a refinement reads {params.most_shown} solutions: GSR (arXiv 2509.00084) gains "
            "nothing beyond 10, one step of RSA (2509.26626) nothing beyond 4"
        )
    if params.widths and not gsr.trained:
        advise(
            "several rounds with a checkpoint that was not trained to refine: an untrained model "
            "got worse with every round (ParaGator, arXiv 2603.18886)"
        )
    elif params.widths:
        advise(
            "more than one round: models trained for one (GSR) were not measured with more; RSA "
            "and PaCoRe (arXiv 2601.05593), which gain from rounds, were trained for them"
        )
    elif not gsr.trained:
        advise(
            "the checkpoint was not trained to refine (no gsr.json says so); for published ones "
            "name their program: see 'Which model?' in the README"
        )


def warn_beyond_context(params: SamplingParams, context: int) -> None:
    """Warn of a `max_tokens` that no stream can reach."""
    if params.max_tokens is not None and params.max_tokens > context:
        # Without the number: every client of a server has one of its own, and each text is kept.
        advise(
            f"max_tokens is above the context of {context}: a stream ends where the context ends, "
            "with finish_reason 'length'"
        )

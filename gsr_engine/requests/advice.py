"""Warnings about settings that gained little or did harm in the literature; never a refusal."""

from __future__ import annotations

import warnings

from gsr_engine.checkpoint.gsr_config import GsrConfig
from gsr_engine.params import SelfRefineParams


def warn_beyond_evidence(params: SelfRefineParams, gsr: GsrConfig) -> None:
    """Warn, once for each text, of settings that the literature advises against."""
    found = []
    if params.most_shown > 10:
        found.append(
            f"a refinement reads {params.most_shown} solutions: GSR (arXiv 2509.00084) gains "
            "nothing beyond 10, one step of RSA (2509.26626) nothing beyond 4"
        )
    if params.widths and not gsr.trained:
        found.append(
            "several rounds with a checkpoint that was not trained to refine: an untrained model "
            "got worse with every round (ParaGator, arXiv 2603.18886)"
        )
    elif params.widths:
        found.append(
            "more than one round: models trained for one (GSR) were not measured with more; RSA "
            "and PaCoRe (arXiv 2601.05593), which gain from rounds, were trained for them"
        )
    elif not gsr.trained:
        found.append(
            "the checkpoint was not trained to refine (no gsr.json says so): that is about as good "
            "as a majority vote, or worse (GSR, arXiv 2509.00084)"
        )
    for text in found:
        warnings.warn(text, stacklevel=4)

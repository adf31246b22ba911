"""Which sampling values a command used, and which of them are the checkpoint's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gsr_engine.checkpoint.generation_config import OWN
from gsr_engine.params import SamplingParams


def values(asked: SamplingParams, used: SamplingParams) -> dict[str, Any]:
    """The values by name, and under `from_checkpoint` the names of those that it stated."""
    numbers = {name: getattr(used, name) for name in OWN}
    stated = [
        name for name, own in OWN.items() if getattr(asked, name) is None and numbers[name] != own
    ]
    return {**numbers, "from_checkpoint": stated}


def line(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """One line on the `values` of some kinds of streams; those that change nothing are left out."""
    told, stated = [], list[str]()
    for kind, used in parts.items():
        shown = [
            f"{name.replace('_', '-')} {used[name]:g}"
            for name, own in OWN.items()
            if name == "temperature" or used[name] != own
        ]
        told.append(f"{kind} {', '.join(shown)}".lstrip())
        stated += used["from_checkpoint"]
    names = ", ".join(name.replace("_", "-") for name in dict.fromkeys(stated))
    origin = f" ({names}: the checkpoint's; --generation-config none leaves them out)"
    return f"sampling: {'; '.join(told)}{origin if stated else ''}"

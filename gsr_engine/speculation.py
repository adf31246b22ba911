"""Settings of lookup decoding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from gsr_engine.errors import InvalidRequest, check_choice, check_int, shown

MOST_SPECULATIVE_TOKENS = 64
"""Upper limit of `num_speculative_tokens`, because every proposed token is a row of the step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculativeConfig:
    """How streams propose their next tokens; names and meaning are vLLM's.

    Attributes:
        method: "ngram": a stream's last tokens are looked up in what it sees.
        num_speculative_tokens: most tokens that one stream proposes for one step.
    """

    method: str = "ngram"
    num_speculative_tokens: int = 8

    def __post_init__(self) -> None:
        """Raise InvalidRequest for a value out of range."""
        name = "num_speculative_tokens"
        check_choice("speculative_config.method", self.method, ("ngram",))
        most = check_int(
            f"speculative_config.{name}", getattr(self, name), 1, MOST_SPECULATIVE_TOKENS
        )
        object.__setattr__(self, name, most)

    @classmethod
    def of(cls, value: object) -> SpeculativeConfig | None:
        """The settings that a dictionary states; None stays None.

        Raises:
            InvalidRequest: it is no dictionary, or has a field that is unknown or out of range.
        """
        if value is None or isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise InvalidRequest("speculative_config", f"must be a dictionary, got {shown(value)}")
        known = [field.name for field in fields(cls)]
        for name in value:
            if name not in known:
                raise InvalidRequest(
                    "speculative_config", f"{shown(name)} is none of {', '.join(known)}"
                )
        return cls(**value)

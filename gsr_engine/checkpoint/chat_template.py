"""The checkpoint's chat template, run over a whole conversation.

A template is a program over the contents. It may trim them, cut them, switch on them, repeat them
or skip them, or refuse the conversation. So it always sees the contents themselves. Control tokens
that they spell are marked, to be told from those that the template writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from itertools import islice
from typing import Any

from transformers import PreTrainedTokenizerBase

from gsr_engine.checkpoint.control_tokens import ControlTokens, Tags, template_source
from gsr_engine.errors import InvalidRequest, shown

Content = str | Sequence[str | int]
"""The text of a message, or its parts: an int is the number of a slot, for ids put in later."""
Message = Mapping[str, Any]
"""A message: `role` and `content` as text, and what else its chat template reads."""
Variables = Mapping[str, Any]

_RESERVED = frozenset(
    (
        *("conversation", "messages", "tools", "documents", "chat_template", "tokenize"),
        *("add_generation_prompt", "continue_final_message", "sanitize_control_tokens"),
        *("padding", "truncation", "max_length", "tokenizer_kwargs"),
        *("return_tensors", "return_dict", "return_assistant_tokens_mask"),
    )
)
"""What `apply_chat_template` itself takes, and what the engine decides."""
_PRIVATE = re.compile("[\U00100000-\U0010fffd]")


@dataclass(frozen=True, slots=True)
class Markup:
    """Text in which control tokens count."""

    text: str


@dataclass(frozen=True, slots=True)
class Plain:
    """The spelling of a control token that came from outside: it is only text."""

    text: str


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for token ids."""

    number: int


Piece = Markup | Plain | Slot


class ChatTemplate:
    """The chat template of one tokenizer.

    Args:
        tokenizer: the tokenizer whose template it is; its `chat_template` may be missing.
        control: its control tokens.
        thinking: tags that an assistant's content may spell.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, control: ControlTokens, thinking: Tags | None
    ) -> None:
        self._tokenizer = tokenizer
        self._source = template_source(tokenizer)
        special = {*tokenizer.SPECIAL_TOKENS_ATTRIBUTES, *tokenizer.special_tokens_map}
        self._reserved = _RESERVED | special
        self._spelled = control.pattern()
        self._spelled_by_assistant = control.pattern(keep=thinking or ())

    def check_variables(self, variables: Variables) -> None:
        """Raise InvalidRequest for a variable that the template does not read, or may not get."""
        if not isinstance(variables, Mapping) or not all(isinstance(k, str) for k in variables):
            raise InvalidRequest("chat_template_kwargs", f"must be a dict, got {shown(variables)}")
        for name in variables:
            if name in self._reserved:
                raise InvalidRequest("chat_template_kwargs", f"{name} is not for callers to set")
            if not re.search(rf"\b{re.escape(name)}\b", self._source):
                raise InvalidRequest(
                    "chat_template_kwargs", f"the chat template does not read {shown(name)}"
                )

    def render(self, messages: Sequence[Message], variables: Variables, day: date) -> list[Piece]:
        """The conversation with the opening of the assistant's turn, as its pieces in order.

        Every message has `role` and `content`; a content may be of parts. `day` is the date that
        the template reads.

        Raises:
            InvalidRequest: the checkpoint has no chat template, or the template refuses.
        """
        if not self._source:
            raise InvalidRequest("messages", "the checkpoint has no chat template")
        marks = _Marks.unused_in(messages, variables)
        # Over the wire the template's variables come from outside, too.
        variables = marks.wrap(variables, self._spelled)
        marked = [
            marks.wrap(
                message, self._spelled_by_assistant if _is_assistant(message) else self._spelled
            )
            for message in messages
        ]
        source = self._source
        if "strftime_now" in source:
            source = _fixed_clock(day) + source
        try:
            text: str = self._tokenizer.apply_chat_template(
                marked,
                chat_template=source,
                tokenize=False,
                add_generation_prompt=True,
                **variables,
            )
        except Exception as error:
            raise InvalidRequest(
                "messages", f"the chat template refuses them: {error!s:.300}"
            ) from None
        return list(marks.split(text))

    def mark(self, text: str) -> list[Markup | Plain]:
        """An assistant's text on its own, as `render` would split it."""
        marks = _Marks.unused_in(text)
        pieces = marks.split(marks.wrap(text, self._spelled_by_assistant))
        return [piece for piece in pieces if not isinstance(piece, Slot)]


def _is_assistant(message: Message) -> bool:
    return message.get("role") == "assistant"


@dataclass(frozen=True, slots=True)
class _Marks:
    """Three characters that no input holds: around a spelled control token, and around a slot."""

    begin: str
    end: str
    slot: str

    @classmethod
    def unused_in(cls, *inputs: object) -> _Marks:
        held = {c for text in _texts(inputs) if not text.isascii() for c in _PRIVATE.findall(text)}
        unused = (c for c in map(chr, range(0x100000, 0x10FFFE)) if c not in held)
        marks = list(islice(unused, 3))
        if len(marks) < 3:
            raise InvalidRequest("messages", "hold nearly all characters from U+100000 on")
        return cls(*marks)

    def wrap(self, value: Any, spelled: re.Pattern[str]) -> Any:
        """The value with every spelled control token marked, also inside of lists and dicts."""
        if isinstance(value, str):
            return spelled.sub(f"{self.begin}\\g<0>{self.end}", value)
        if isinstance(value, Mapping):
            return {
                self.wrap(key, spelled): self._field(key, one, spelled)
                for key, one in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.wrap(one, spelled) for one in value]
        return value

    def _field(self, key: Any, value: Any, spelled: re.Pattern[str]) -> Any:
        if key == "content" and isinstance(value, list):
            slot = self.slot
            value = "".join(p if isinstance(p, str) else f"{slot}{p}{slot}" for p in value)
        return self.wrap(value, spelled)

    def split(self, text: str) -> Iterator[Piece]:
        """The pieces of rendered text; a template may have parted marks from what they enclose."""
        begin, end, slot = self.begin, self.end, self.slot
        stop = 0
        for found in re.finditer(rf"{begin}([^{begin}{end}]*){end}|{slot}(\d+){slot}", text):
            yield from self._markup(text[stop : found.start()])
            stop = found.end()
            yield Slot(int(found[2])) if found[2] else Plain(found[1])
        yield from self._markup(text[stop:])

    def _markup(self, text: str) -> Iterator[Piece]:
        for part in re.split(f"[{self.begin}{self.end}]", text):
            if part:
                yield Markup(part)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


@lru_cache(8)
def _fixed_clock(day: date) -> str:
    """A macro that takes the place of the template's clock, so that no prompt depends on the day.

    It replaces the directives of `strftime` one by one; it knows no hour.
    """
    signs = [*(f"-{sign}" for sign in "dmHIj"), *"aAbBdmyYjwuUWVGxcDFeHIMSpzZfn"]
    parts = {f"%{sign}": day.strftime(f"%{sign}") for sign in signs}
    macro = "".join(f".replace({key!r}, {value!r})" for key, value in parts.items())
    # The line break after the tag is trimmed, so that the template begins as it is.
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{macro} }}}}{{%- endmacro %}}\n"

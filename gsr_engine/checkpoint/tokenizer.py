"""Text to token ids and back, around the checkpoint's own tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from datetime import date
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken
from tokenizers import Tokenizer as RawTokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gsr_engine.checkpoint.chat_template import (
    ChatTemplate,
    Markup,
    Message,
    Plain,
    Slot,
    Variables,
)
from gsr_engine.checkpoint.control_tokens import ControlTokens, Tags, find_stop_ids, find_tags
from gsr_engine.checkpoint.files import is_gguf
from gsr_engine.checkpoint.gguf.tokenizer import read_tokenizer as read_gguf
from gsr_engine.checkpoint.text_bound import bytes_per_token
from gsr_engine.errors import CheckpointError, InvalidRequest, shown

SpecialTokens = Literal["parse", "text"]
"""Whether the special tokens that a raw prompt spells are parsed, or stay text."""
_ANCHOR = "\U0010fffd"
"""A character that no tokenizer merges with its neighbours, because no text has it."""
_LONGEST_KEPT = 4000
"""Characters of a text whose ids are kept for the next prompt."""


class Tokenizer:
    """A Hugging Face tokenizer with the few operations that the engine needs.

    Any number of threads may use it at the same time, and while one encodes, the others run: no
    call changes the tokenizer, and encoding releases the interpreter's lock.

    Args:
        tokenizer: the checkpoint's.
        stop_ids: its end tokens.
        thinking: the tags around thinking; "auto" asks tokenizer and template for them.

    Attributes:
        bytes_per_token: the most UTF-8 bytes that a text may have for each of its tokens; see
            `checkpoint/text_bound.py`.
        control_ids: ids of its control tokens but thinking tags; `encode_text` never produces one.
        stop_ids: the checkpoint's end tokens.
        end_id: the end token that closes a trained target, None if the tokenizer names none.
        thinking: the tags around thinking, None if the checkpoint does not think.
        knows_thinking: whether the tags were given, or tokenizer or template know them.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: frozenset[int],
        thinking: Tags | Literal["auto"] | None = "auto",
    ) -> None:
        self.thinking, self.knows_thinking = (
            find_tags(tokenizer) if thinking == "auto" else (thinking, True)
        )
        self._tokenizer = tokenizer
        self._control = ControlTokens.of(tokenizer, stop_ids, self.thinking)
        spellings, hidden = self._control.spellings, self._control.hidden
        self._unwritten = {text: token for text, token in spellings.items() if token in hidden}
        self._template = ChatTemplate(tokenizer, self._control, self.thinking)
        # Transformers switches between the two ways to encode inside of one tokenizer. That fails
        # while another thread encodes with it, so each way has a tokenizer that is never changed.
        self._markup = _fixed(tokenizer.backend_tokenizer)
        self._plain = _fixed(deepcopy(tokenizer.backend_tokenizer))
        self._plain.add_special_tokens(
            [AddedToken(text, special=True, normalized=False) for text in self._control.spellings]
        )
        self._plain.encode_special_tokens = True
        # Only SentencePiece tokenizers put a space before a text; the others need no anchor.
        first = _encode(self._plain, "x"), _encode(self._plain, "\n")
        self._inside = "" if _encode(self._plain, "\nx") == first[1] + first[0] else _ANCHOR
        # Behind a slot comes the checkpoint's own text, the same in every prompt.
        self._encode_again = lru_cache(256)(partial(self._encode_piece, behind=self._inside))
        self.bytes_per_token = bytes_per_token(self._plain)
        self.control_ids, self.stop_ids = self._control.ids, stop_ids
        self._spelled = frozenset(self._plain.get_vocab().values()) - self._control.hidden
        self.end_id: int | None = tokenizer.eos_token_id
        self._start_id: int | None = tokenizer.bos_token_id

    @classmethod
    def from_folder(
        cls, folder: Path, thinking: Tags | Literal["auto"] | None = "auto"
    ) -> Tokenizer:
        """Load from a checkpoint folder or a GGUF file, with the end tokens that its files name.

        Raises:
            CheckpointError: the folder has no usable tokenizer.json, or its end tokens are not ids;
                or the file's tokenizer is broken or not known.
        """
        if is_gguf(folder):
            tokenizer, stop_ids = read_gguf(folder)
            return cls(tokenizer, stop_ids | find_stop_ids(folder, tokenizer), thinking)
        if not (folder / "tokenizer.json").exists():
            raise CheckpointError(f"{folder} has no tokenizer.json")
        # Not AutoTokenizer: in transformers 5 it replaces the file's own pre-tokenizer by one from
        # a class for some model types.
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
        except Exception as error:
            raise CheckpointError(
                f"{folder} has no usable tokenizer.json: {error!s:.300}"
            ) from None
        return cls(tokenizer, find_stop_ids(folder, tokenizer), thinking)

    def encode_text(self, text: str) -> list[int]:
        """Ids of text from outside; a control token spelled in it stays plain text.

        Raises:
            InvalidRequest: the value is not text, or holds a lone surrogate.
        """
        _check_text("text", text)
        return _encode(self._plain, text)

    def encode_markup(self, text: str) -> list[int]:
        """Ids of the checkpoint's own text (templates); control tokens in it are recognised."""
        return _encode(self._markup, text)

    def encode_solution(self, text: str, opening: str = "") -> list[int]:
        """Ids of a solution's text, as the model would have written it after `opening`.

        Thinking tags are recognised, other control tokens stay plain text. `opening` is the
        checkpoint's own text; some tokenizers write the first token otherwise without it.

        Raises:
            InvalidRequest: as `encode_text`.
        """
        _check_text("text", text)
        token_ids: list[int] = []
        for piece in self._template.mark(text):
            token_ids += self._encode_piece(piece, behind=self._inside if token_ids else opening)
        return token_ids

    def encode_prompt(
        self, text: str, special_tokens: SpecialTokens = "parse", add_special_tokens: bool = True
    ) -> list[int]:
        """Ids of a raw prompt, with the start token if the tokenizer adds one and it has none.

        Without `add_special_tokens` nothing is added.

        Special tokens in the text are parsed, as transformers does, unless `special_tokens` is
        "text".

        Raises:
            InvalidRequest: as `encode_text`, or `special_tokens` is something else.
        """
        _check_text("prompt", text)
        if special_tokens not in ("parse", "text"):
            raise InvalidRequest(
                "special_tokens", f'must be "parse" or "text", got {shown(special_tokens)}'
            )
        raw = self._markup if special_tokens == "parse" else self._plain
        token_ids = _encode(raw, text, add_special_tokens)
        # A rendered conversation has its start token already; nobody means two of them.
        doubled = self._start_id is not None and token_ids[:2] == [self._start_id] * 2
        return token_ids[1:] if doubled else token_ids

    def decode(self, token_ids: list[int]) -> str:
        """Text of generated ids without special tokens; thinking tags are text.

        Raises:
            RuntimeError: the tokenizer panicked. Its own exception is no `Exception`, so that it
                would pass by everybody who lets an error end one request only.
        """
        hidden = self._control.hidden
        shown = [token for token in token_ids if token not in hidden]
        # Some checkpoints ask for a clean-up of spaces before punctuation. It changes the text that
        # the tokens spell, and text already streamed could change with the next token. So this is
        # not transformers' `decode`. That costs several times as much, too, for each token.
        try:
            text: str = self._markup.decode(shown, skip_special_tokens=False)
        except (Exception, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as panic:
            raise RuntimeError(f"the tokenizer panicked: {panic}") from panic
        return text

    def spells(self, token: int) -> bool:
        """Whether `decode` reads an id; it skips special tokens, and ids that are no token."""
        return token in self._spelled

    def pieces(self, token_ids: list[int]) -> list[str]:
        """The text of each id on its own, special tokens included."""
        return [str(self._markup.decode([one], skip_special_tokens=False)) for one in token_ids]

    def spelled(self, token_ids: list[int]) -> str:
        """The text of ids, special tokens included."""
        return str(self._markup.decode(token_ids, skip_special_tokens=False))

    @property
    def names(self) -> dict[str, Any]:
        """What others ask of a tokenizer: its special tokens by name, and its chat template."""
        tokens = self._tokenizer.special_tokens_map
        return {**tokens, "chat_template": self._tokenizer.chat_template}

    def stop_token(self, text: str) -> int | None:
        """The special token that a stop string names; None if it is text.

        Raises:
            InvalidRequest: a special token is only a part of the string. It is no text, so the
                string could never be found.
        """
        if text in self._unwritten:
            return self._unwritten[text]
        for spelling in self._unwritten:
            if spelling in text:
                raise InvalidRequest(
                    "stop",
                    f"{shown(text)} holds the special token {spelling}, which has no text; "
                    f"give {spelling} alone, or its id in stop_token_ids",
                )
        return None

    def chat(
        self,
        messages: Sequence[Message],
        variables: Variables | None = None,
        day: date | None = None,
    ) -> list[int]:
        """Ids of a conversation, with the opening of the assistant's turn.

        They are those of transformers' `apply_chat_template`, but control tokens that contents
        spell stay plain text.

        Args:
            messages: the conversation; each has `role` and `content` as text.
            variables: what the template reads besides, e.g. `{"enable_thinking": False}`.
            day: the date that the template reads; None for today.

        Raises:
            InvalidRequest: the checkpoint has no chat template, or the template refuses; a message
                lacks role or content; the template does not read a variable.
        """
        check_messages("messages", messages)
        variables = variables or {}
        self.check_variables(variables)
        (token_ids,), _ = self.chat_parts(messages, variables, day or date.today())
        return token_ids

    def chat_parts(
        self, messages: Sequence[Message], variables: Variables, day: date
    ) -> tuple[list[list[int]], list[int]]:
        """As `chat`, with slots in the contents: the ids around the slots, and the slots in order.

        A slot is an int among the parts of a content. There is one list of ids more than slots.
        """
        parts: list[list[int]] = [[]]
        slots: list[int] = []
        first = True
        for piece in self._template.render(messages, variables, day):
            if isinstance(piece, Slot):
                slots.append(piece.number)
                parts.append([])
            elif slots and len(piece.text) < _LONGEST_KEPT:
                parts[-1] += self._encode_again(piece)
            else:
                parts[-1] += self._encode_piece(piece, behind="" if first else self._inside)
            first = False
        return parts, slots

    def check_variables(self, variables: Variables) -> None:
        """Raise InvalidRequest for a variable that the chat template does not read."""
        self._template.check_variables(variables)

    def rendered(self, messages: Sequence[Message], variables: Variables, day: date) -> str:
        """The text that the template writes, up to the first slot in it."""
        text = ""
        for piece in self._template.render(messages, variables, day):
            if isinstance(piece, Slot):
                break
            text += piece.text
        return text

    def _encode_piece(self, piece: Markup | Plain, behind: str) -> list[int]:
        """Ids of a piece behind some text.

        SentencePiece tokenizers put a space before a text, which must not happen inside of one. So
        the text before is tokenised along, and its ids are taken away.
        """
        raw = self._markup if isinstance(piece, Markup) else self._plain
        opening = _encode(self._markup, behind) if behind else []
        ids = _encode(raw, behind + piece.text)
        begins = ids[: len(opening)] == opening
        ids = ids[len(opening) :] if begins else _encode(raw, piece.text)
        # A Unigram model holds its special tokens as words, too: then only letters are plain text.
        if isinstance(piece, Plain) and len(piece.text) > 1 and self._control.ids & set(ids):
            letters = [self._encode_piece(Plain(one), behind) for one in piece.text]
            return [token for one in letters for token in one]
        return ids


def check_messages(field: str, messages: object) -> list[str]:
    """The contents of messages that have a role and a content.

    Raises:
        InvalidRequest: they have not; the message names which.
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence) or not messages:
        raise InvalidRequest(
            field, f"must be messages with role and content, got {shown(messages)}"
        )
    contents = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise InvalidRequest(
                field, f"message {index} must have role and content, got {shown(message)}"
            )
        for name in ("role", "content"):
            if name not in message:
                raise InvalidRequest(field, f"message {index} has no {name}")
            _check_text(field, message[name], f"message {index}: its {name} ")
        contents.append(message["content"])
    return contents


def _fixed(raw: RawTokenizer) -> RawTokenizer:
    """A tokenizer as it stays; it neither cuts nor pads, and parses special tokens."""
    raw.no_truncation()
    raw.no_padding()
    raw.encode_special_tokens = False
    return raw


def _encode(raw: RawTokenizer, text: str, add_special_tokens: bool = False) -> list[int]:
    # Of the ways to encode only those for a batch release the interpreter's lock.
    (encoding,) = raw.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    ids: list[int] = encoding.ids
    return ids


def _check_text(field: str, text: object, which: str = "") -> None:
    if not isinstance(text, str):
        raise InvalidRequest(field, f"{which}must be text, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(field, f"{which}is no valid Unicode: {error}") from None

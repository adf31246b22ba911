"""Text to token ids and back, around the checkpoint's own tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gsr_engine.checkpoint.files import read_json
from gsr_engine.errors import CheckpointError, InvalidRequest

Message = dict[str, str]


class Tokenizer:
    """A Hugging Face tokenizer with the few operations that the engine needs.

    Attributes:
        special_ids: ids of special tokens, which `encode_text` never produces.
        stop_ids: the checkpoint's end tokens, from `generation_config.json` and the tokenizer.
        end_id: the end token that closes a trained target, None if the tokenizer names none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        # all_special_ids lacks special tokens without a role (bos, eos, ...) in the config.
        added = tokenizer.added_tokens_decoder.items()
        self.special_ids = frozenset(tokenizer.all_special_ids) | {i for i, t in added if t.special}
        self.stop_ids = stop_ids
        self.end_id: int | None = tokenizer.eos_token_id

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Load from a checkpoint folder, with the end tokens of its `generation_config.json`.

        Raises:
            CheckpointError: the folder has no usable tokenizer.json, or its end tokens are not ids.
        """
        if not (folder / "tokenizer.json").exists():
            raise CheckpointError(f"{folder} has no tokenizer.json")
        # Not AutoTokenizer: in transformers 5 it replaces the file's own pre-tokenizer by one from
        # a class for some model types.
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder))
        except Exception as error:
            raise CheckpointError(f"{folder} has no usable tokenizer: {error}") from None
        generation = folder / "generation_config.json"
        eos = read_json(generation).get("eos_token_id") if generation.exists() else None
        ids = [] if eos is None else eos if isinstance(eos, list) else [eos]
        if not all(isinstance(one, int) for one in ids):
            raise CheckpointError(f"{generation}: eos_token_id must be token ids, got {eos!r}")
        if tokenizer.eos_token_id is not None:
            ids = [*ids, tokenizer.eos_token_id]
        return cls(tokenizer, frozenset(ids))

    def encode_text(self, text: str) -> list[int]:
        """Ids of text from outside; a special token spelled in it stays plain text.

        Raises:
            InvalidRequest: the value is not text, or holds a lone surrogate.
        """
        _check_text(text)
        ids: list[int] = self._tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=True
        )
        return ids

    def encode_markup(self, text: str) -> list[int]:
        """Ids of the checkpoint's own text (templates); special tokens in it are recognised."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a raw prompt, with the start token if the tokenizer adds one.

        A special token spelled in the text stays plain text.

        Raises:
            InvalidRequest: as `encode_text`.
        """
        _check_text(text)
        ids: list[int] = self._tokenizer.encode(text, split_special_tokens=True)
        return ids

    def decode(self, token_ids: list[int]) -> str:
        """Text of generated ids, without special tokens."""
        # Some checkpoints ask for a clean-up of spaces before punctuation. It changes the text that
        # the tokens spell, and text already streamed could change with the next token.
        text: str = self._tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def pieces(self, token_ids: list[int]) -> list[str]:
        """The text of each id on its own, special tokens included."""
        return [str(self._tokenizer.decode([one])) for one in token_ids]

    def chat_frame(self, roles: list[str]) -> list[list[int]]:
        """Ids that the chat template writes around the contents of messages with these roles.

        Returns len(roles) + 1 pieces: before the first content, between two contents, and after
        the last one. The last piece includes the opening of the assistant's turn. Callers splice
        contents in as ids, so contents can neither close a turn nor open one.

        Raises:
            InvalidRequest: the checkpoint has no chat template, or the template refuses, drops or
                reorders a message.
        """
        if not self._tokenizer.chat_template:
            raise InvalidRequest("messages", "the checkpoint has no chat template")
        marks = [f"[content {index} of {len(roles)}]" for index in range(len(roles))]
        messages = [
            {"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)
        ]
        try:
            rest: str = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:
            raise InvalidRequest("messages", f"the chat template refuses them: {error}") from None
        pieces = []
        for mark in marks:
            before, found, rest = rest.partition(mark)
            if not found:
                raise InvalidRequest("messages", "the chat template drops or reorders a message")
            pieces.append(before)
        return [self.encode_markup(piece) for piece in (*pieces, rest)]

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation, with the opening of the assistant's turn.

        Raises:
            InvalidRequest: as `chat_frame`, or a message lacks role or content.
        """
        try:
            roles = [message["role"] for message in messages]
            contents = [self.encode_text(message["content"]) for message in messages]
        except (KeyError, TypeError, InvalidRequest) as error:
            raise InvalidRequest("messages", f"need role and content as text: {error}") from None
        first, *rest = self.chat_frame(roles)
        token_ids = list(first)
        for content, markup in zip(contents, rest, strict=True):
            token_ids += content + markup
        return token_ids


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise InvalidRequest("text", f"must be text, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest("text", f"is no valid Unicode: {error}") from None

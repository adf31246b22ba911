"""Text to token ids and back, around the checkpoint's own tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

from tokenizers import Tokenizer as RawTokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from gsr_engine.checkpoint.files import read_json
from gsr_engine.checkpoint.text_bound import bytes_per_token
from gsr_engine.errors import CheckpointError, InvalidRequest, shown

Message = dict[str, str]
_MOST_ID = 2**31 - 1


class Tokenizer:
    """A Hugging Face tokenizer with the few operations that the engine needs.

    Any number of threads may use it at the same time, and while one encodes, the others run: no
    call changes the tokenizer, and encoding releases the interpreter's lock.

    Attributes:
        bytes_per_token: the most UTF-8 bytes that a text may have for each of its tokens; see
            `checkpoint/text_bound.py`.
        special_ids: ids of special tokens, which `encode_text` never produces.
        stop_ids: the checkpoint's end tokens, from `generation_config.json` and the tokenizer.
        end_id: the end token that closes a trained target, None if the tokenizer names none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        # Transformers switches between the two ways to encode inside of one tokenizer. That fails
        # while another thread encodes with it, so each way has a tokenizer that is never changed.
        self._markup = _fixed(tokenizer.backend_tokenizer, plain=False)
        self._plain = _fixed(deepcopy(tokenizer.backend_tokenizer), plain=True)
        self.bytes_per_token = bytes_per_token(self._plain)
        # all_special_ids lacks special tokens without a role (bos, eos, ...) in the config.
        added = tokenizer.added_tokens_decoder.items()
        self.special_ids = frozenset(tokenizer.all_special_ids) | {i for i, t in added if t.special}
        spelled = set(self._plain.get_vocab().values())
        added = self._plain.get_added_tokens_decoder().items()
        self._spelled = frozenset(spelled - {i for i, token in added if token.special})
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
        if not all(type(one) is int and 0 <= one <= _MOST_ID for one in ids):
            raise CheckpointError(f"{generation}: eos_token_id must be token ids, got {shown(eos)}")
        if tokenizer.eos_token_id is not None:
            ids = [*ids, tokenizer.eos_token_id]
        return cls(tokenizer, frozenset(ids))

    def encode_text(self, text: str) -> list[int]:
        """Ids of text from outside; a special token spelled in it stays plain text.

        Raises:
            InvalidRequest: the value is not text, or holds a lone surrogate.
        """
        _check_text(text)
        return _encode(self._plain, text)

    def encode_markup(self, text: str) -> list[int]:
        """Ids of the checkpoint's own text (templates); special tokens in it are recognised."""
        return _encode(self._markup, text)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a raw prompt, with the start token if the tokenizer adds one.

        A special token spelled in the text stays plain text.

        Raises:
            InvalidRequest: as `encode_text`.
        """
        _check_text(text)
        return _encode(self._plain, text, add_special_tokens=True)

    def decode(self, token_ids: list[int]) -> str:
        """Text of generated ids, without special tokens.

        Raises:
            RuntimeError: the tokenizer panicked. Its own exception is no `Exception`, so that it
                would pass by everybody who lets an error end one request only.
        """
        # Some checkpoints ask for a clean-up of spaces before punctuation. It changes the text that
        # the tokens spell, and text already streamed could change with the next token.
        try:
            text: str = self._tokenizer.decode(
                token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
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

    def chat(
        self, messages: Sequence[Message], check: Callable[[str], None] = lambda _: None
    ) -> list[int]:
        """Ids of a conversation, with the opening of the assistant's turn.

        `check` is called with all contents, joined, before any of them is tokenised; it may raise.

        Raises:
            InvalidRequest: as `chat_frame`, or a message lacks role or content.
        """
        try:
            roles = [message["role"] for message in messages]
            texts = [message["content"] for message in messages]
            for text in texts:
                _check_text(text)
        except (KeyError, TypeError, InvalidRequest) as error:
            raise InvalidRequest("messages", f"need role and content as text: {error}") from None
        check("".join(texts))
        contents = [self.encode_text(text) for text in texts]
        first, *rest = self.chat_frame(roles)
        token_ids = list(first)
        for content, markup in zip(contents, rest, strict=True):
            token_ids += content + markup
        return token_ids


def _fixed(raw: RawTokenizer, plain: bool) -> RawTokenizer:
    """A tokenizer as it stays; it neither cuts nor pads. `plain`: special tokens are just text."""
    raw.no_truncation()
    raw.no_padding()
    raw.encode_special_tokens = plain
    return raw


def _encode(raw: RawTokenizer, text: str, add_special_tokens: bool = False) -> list[int]:
    # Of the ways to encode only those for a batch release the interpreter's lock.
    (encoding,) = raw.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    ids: list[int] = encoding.ids
    return ids


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise InvalidRequest("text", f"must be text, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest("text", f"is no valid Unicode: {error}") from None

"""The tokens that steer a conversation, and have no meaning as text: asked of the checkpoint, here.

Special tokens, end tokens and turn tokens are *control tokens*. The checkpoint's own text (its chat
template) spells them. Text from outside may hold the same characters, but they stay characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from gsr_engine.checkpoint.files import beside, read_json
from gsr_engine.errors import CheckpointError, shown

Tags = tuple[str, str]
KNOWN_TAGS: tuple[Tags, ...] = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""Pairs of tags around thinking that checkpoints use; the first pair is the common one."""
_MOST_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """The control tokens of one checkpoint.

    Attributes:
        ids: all but thinking tags. Outside text never becomes one, and no summary shows one.
        hidden: those that the text of a solution leaves out: special tokens but thinking tags.
        spellings: text of every control token, with its id. Thinking tags are among them, because
            only a solution may spell them.
        stop_ids: the end tokens.
    """

    ids: frozenset[int]
    hidden: frozenset[int]
    spellings: dict[str, int]
    stop_ids: frozenset[int]

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerBase, stop_ids: frozenset[int], thinking: Tags | None
    ) -> ControlTokens:
        """Ask the tokenizer for special tokens, and the template for the tokens that it writes.

        A turn token need not be marked as special: an added token that the template's own text
        spells is a control token. White space is not, because templates write it as text.
        """
        added = {i: token for i, token in tokenizer.added_tokens_decoder.items() if token.content}
        # all_special_ids lacks special tokens without a role (bos, eos, ...) in the config.
        special = frozenset(tokenizer.all_special_ids) | {i for i, t in added.items() if t.special}
        written = "\0".join(_literals(template_source(tokenizer)))
        turns = {i for i, t in added.items() if t.content in written and not t.content.isspace()}
        ids = special | stop_ids | turns
        spellings = {added[i].content: i for i in ids if i in added}
        tags = {spellings[tag] for tag in thinking or () if tag in spellings}
        return cls(ids - tags, special - tags, spellings, stop_ids)

    def pattern(self, keep: tuple[str, ...] = ()) -> re.Pattern[str]:
        """Finds every spelling but those to `keep`, the longest first."""
        spellings = sorted(self.spellings.keys() - set(keep), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, spellings)) or r"(?!)")


def template_source(tokenizer: PreTrainedTokenizerBase) -> str:
    """The source of the chat template; empty if there is none."""
    if not tokenizer.chat_template:
        return ""
    try:
        return str(tokenizer.get_chat_template())
    except Exception as error:
        raise CheckpointError(f"the tokenizer has no default chat template: {error}") from None


def _literals(source: str) -> Iterator[str]:
    """The text that a template writes: what stands outside of its tags, and its string literals.

    A source that is no template writes nothing; `ChatTemplate.render` says what is wrong with it.
    """
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # noqa: S701  no HTML
    try:
        for _, kind, value in environment.lex(source):
            if kind == "string":
                yield value[1:-1].encode("latin-1", "backslashreplace").decode("unicode_escape")
            elif kind == "data":
                yield value
    except (jinja2.TemplateError, UnicodeDecodeError):
        return


def find_stop_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The end tokens that the checkpoint names in any of its three places.

    These are `generation_config.json`, `config.json` and the tokenizer.

    Raises:
        CheckpointError: they are not ids.
    """
    ids: list[int] = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        path = beside(folder, name)
        raw: dict[str, Any] = read_json(path) if path.exists() else {}
        eos = raw.get("eos_token_id")
        named = [] if eos is None else eos if isinstance(eos, list) else [eos]
        if not all(type(one) is int and 0 <= one <= _MOST_ID for one in named):
            raise CheckpointError(f"{path}: eos_token_id must be token ids, got {shown(eos)}")
        ids += named
    return frozenset(ids)


def find_tags(tokenizer: PreTrainedTokenizerBase) -> tuple[Tags, bool]:
    """The tags around thinking, and whether tokenizer or template know them.

    Without either the common pair counts, but only around the very beginning of a solution.
    """
    added = {token.content for token in tokenizer.added_tokens_decoder.values()}
    source = template_source(tokenizer)
    known = [tags for tags in KNOWN_TAGS if tags[1] in source or set(tags) <= added]
    known.sort(key=lambda tags: tags[1] not in source)  # what the template writes comes first
    return (known[0], True) if known else (KNOWN_TAGS[0], False)

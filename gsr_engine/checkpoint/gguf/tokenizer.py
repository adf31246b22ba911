"""The tokenizer of a GGUF file, as one of the package `tokenizers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from tokenizers.pre_tokenizers import PreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import generate_merges

from gsr_engine.checkpoint.gguf.config import EMBEDDING
from gsr_engine.checkpoint.gguf.header import GgufHeader, read_header
from gsr_engine.checkpoint.gguf.pre_tokenizers import PRE_TOKENIZERS, PreTokenizing
from gsr_engine.errors import CheckpointError, UnsupportedModel, shown

_PREFIX = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
"""Numbers of `token_type`."""
_ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
_END_IDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_END_TEXTS = frozenset(
    {
        *("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>"),
        *("<|return|>", "<|call|>", "<end_of_turn>", "<end_of_utterance>", "<EOT>", "_<EOT>"),
        *("[EOT]", "[EOS]", "</s>"),
    }
)
"""Tokens that end a text in every file, as in llama.cpp: the ids that a file names are often too
few. Source: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp"""
_LONGEST_PIECE = 1024
"""Characters of a SentencePiece token; the time to find its merges grows with the square."""
_SPACE = "▁"


def read_tokenizer(path: Path) -> tuple[PreTrainedTokenizerBase, frozenset[int]]:
    """The tokenizer of a file with its chat template, and the ids of its end tokens.

    Raises:
        CheckpointError: the file is broken, or its tokenizer contradicts itself.
        UnsupportedModel: the model or the pre-tokenizer of it is not known.
    """
    vocabulary = _Vocabulary(read_header(path))
    kind = vocabulary.fields.text(_PREFIX + "model")
    makers = {"gpt2": _byte_level, "llama": _sentence_piece}
    if kind not in makers:
        raise UnsupportedModel(
            f"{path.name}: {_PREFIX}model {shown(kind)} is not supported; "
            f"supported are {', '.join(makers)}"
        )
    try:
        tokenizer = vocabulary.complete(*makers[kind](vocabulary))
    except CheckpointError:
        raise
    except Exception as error:  # tokenizers has no types of its own
        raise CheckpointError(f"{path} has no usable tokenizer: {error!s:.300}") from None
    return tokenizer, vocabulary.end_ids()


class _Vocabulary:
    """The tokens of a file and what they are."""

    def __init__(self, header: GgufHeader) -> None:
        self.where, self.fields = header.path.name, header.fields
        self._metadata = header.metadata
        self.tokens: list[str] = self.listed("tokens", str)
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            raise CheckpointError(f"{self.where}: {_PREFIX}tokens has a token twice")
        embedding = header.tensors.get(EMBEDDING)
        if embedding is not None and len(self.tokens) > embedding.shape[0]:
            raise CheckpointError(
                f"{self.where}: {_PREFIX}tokens has {len(self.tokens)} tokens, "
                f"{EMBEDDING} has {embedding.shape[0]} rows"
            )
        self.types: list[int] = (
            self.listed("token_type", int, len(self.tokens))
            if _PREFIX + "token_type" in self._metadata
            else [_NORMAL] * len(self.tokens)
        )

    def listed(self, name: str, kind: type, length: int | None = None) -> list[Any]:
        """An array of the file."""
        values = self._metadata.get(_PREFIX + name)
        if not isinstance(values, list) or not all(type(value) is kind for value in values):
            raise CheckpointError(
                f"{self.where}: {_PREFIX}{name} must be an array of {kind.__name__}, "
                f"got {shown(values)}"
            )
        if length is not None and len(values) != length:
            raise CheckpointError(
                f"{self.where}: {_PREFIX}{name} has {len(values)} elements, not {length}"
            )
        return values

    def role(self, name: str, default: int | None = None) -> int | None:
        """The id of a token with a role."""
        if _PREFIX + name not in self._metadata:
            return default if default is None or default < len(self.tokens) else None
        found: int = self.fields.integer(_PREFIX + name, 0, len(self.tokens) - 1)
        return found

    def end_ids(self) -> frozenset[int]:
        named = [self.role(name) for name in _END_IDS]
        known = [self.ids[text] for text in _END_TEXTS & self.ids.keys()]
        return frozenset(known) | {one for one in named if one is not None}

    def complete(
        self, raw: Tokenizer, add_bos: bool, defaults: dict[str, int]
    ) -> PreTrainedTokenizerBase:
        """The tokenizer with control tokens, start token and chat template."""
        special = [self._added(i) for i in self._of_type(_CONTROL, _UNKNOWN)]
        raw.add_special_tokens(special)
        raw.add_tokens([self._added(i, special=False) for i in self._of_type(_USER_DEFINED)])
        ids = {role: self.role(name, defaults.get(role)) for role, name in _ROLES.items()}
        roles = {role: self.tokens[i] for role, i in ids.items() if i is not None}
        self._frame(raw, roles, add_bos)
        template = self.fields.text("tokenizer.chat_template", "")
        return PreTrainedTokenizerFast(
            tokenizer_object=raw, chat_template=template or None, **roles
        )

    def _frame(self, raw: Tokenizer, roles: dict[str, str], add_bos: bool) -> None:
        """Let raw prompts begin and end with the tokens that the file asks for."""
        asked = {
            "bos_token": self.fields.flag(_PREFIX + "add_bos_token", add_bos),
            "eos_token": self.fields.flag(_PREFIX + "add_eos_token", False),
        }
        bos, eos = ([roles[one]] if asked[one] and one in roles else [] for one in asked)
        if bos or eos:
            raw.post_processor = TemplateProcessing(
                single=[*bos, "$A", *eos],
                special_tokens=[(token, self.ids[token]) for token in {*bos, *eos}],
            )

    def _of_type(self, *types: int) -> list[int]:
        return [index for index, kind in enumerate(self.types) if kind in types]

    def _added(self, index: int, special: bool = True) -> AddedToken:
        return AddedToken(self.tokens[index], special=special, normalized=False)


def _byte_level(vocabulary: _Vocabulary) -> tuple[Tokenizer, bool, dict[str, int]]:
    """BPE over bytes, as in GPT-2."""
    name = vocabulary.fields.text(_PREFIX + "pre")
    if name not in PRE_TOKENIZERS:
        raise UnsupportedModel(
            f"{vocabulary.where}: {_PREFIX}pre {shown(name)} is not supported; "
            f"supported are {', '.join(PRE_TOKENIZERS)}"
        )
    cut: PreTokenizing = PRE_TOKENIZERS[name]
    merges = [_merge(vocabulary.where, text) for text in vocabulary.listed("merges", str)]
    raw = Tokenizer(models.BPE(vocabulary.ids, merges, ignore_merges=cut.whole_words))
    pre_tokenizer: PreTokenizer = cut.pre_tokenizer()
    raw.pre_tokenizer, raw.decoder = pre_tokenizer, decoders.ByteLevel()
    return raw, cut.add_bos, {}


def _merge(where: str, text: str) -> tuple[str, str]:
    """The two sides of a merge; the first may begin with a space, and neither is empty."""
    at = text.find(" ", 1)
    if at < 0 or at == len(text) - 1:
        raise CheckpointError(f"{where}: {_PREFIX}merges holds {shown(text)}, which is no pair")
    return text[:at], text[at + 1 :]


def _sentence_piece(vocabulary: _Vocabulary) -> tuple[Tokenizer, bool, dict[str, int]]:
    """BPE of SentencePiece, as in Llama 2: the best score goes first, unknown letters are bytes."""
    tokens, ids = vocabulary.tokens, vocabulary.ids
    scores = vocabulary.listed("scores", float, len(tokens))
    if max(map(len, tokens)) > _LONGEST_PIECE:
        raise CheckpointError(
            f"{vocabulary.where}: {_PREFIX}tokens has one of over {_LONGEST_PIECE} characters"
        )
    others = {
        token for token, kind in zip(tokens, vocabulary.types, strict=True) if kind != _NORMAL
    }
    merges = generate_merges(ids, dict(zip(tokens, scores, strict=True)), others)
    unknown = vocabulary.role("unknown_token_id", 0)
    raw = Tokenizer(
        models.BPE(
            ids,
            merges,
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefixed = vocabulary.fields.flag(_PREFIX + "add_space_prefix", True)
    spaces = normalizers.Replace(" ", _SPACE)
    raw.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), spaces] if prefixed else [spaces]
    )
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    raw.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefixed else steps)
    return raw, True, {"bos_token": 1, "eos_token": 2, "unk_token": 0}

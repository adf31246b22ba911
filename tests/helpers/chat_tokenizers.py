"""Small tokenizers of the kinds that checkpoints have, and templates that do what real ones do.

No network: everything is made here. The templates imitate what well-known families do to contents.
"""

from __future__ import annotations

from functools import cache

from tokenizers import (
    AddedToken,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tokenizers import Tokenizer as RawTokenizer
from transformers import PreTrainedTokenizerFast

START, END = "<|im_start|>", "<|im_end|>"
TURNS = (START, END)
THINK = ("<think>", "</think>")
KINDS = ("byte-level", "metaspace-first", "metaspace-always", "legacy", "turns-not-special")
_WORDS = ["hello", "world", "what", "is", "user", "assistant", "system", "the", "answer", "two"]
_ASCII = [*map(chr, range(32, 127)), "\n", "\t"]

OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TURN = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
LOOP = "{% for m in messages %}"
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + "
    "'@[/INST]' }}{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% else %}"
    "{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "plain": LOOP + TURN + "{% endfor %}" + OPEN,
    "trims": LOOP + TURN.replace("m.content", "m.content | trim") + "{% endfor %}" + OPEN,
    "inst": INST.replace("@", ""),
    "inst-spaced": INST.replace("@", " "),
    "default-system": "{% if messages[0].role != 'system' %}<|im_start|>system\nBe good."
    "<|im_end|>\n{% endif %}" + LOOP + TURN + "{% endfor %}" + OPEN,
    "cuts-thinking": LOOP
    + "{% set said = m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' "
    "else m.content %}" + TURN.replace("m.content", "said") + "{% endfor %}" + OPEN,
    "opens-thinking": LOOP + TURN + "{% endfor %}" + OPEN.replace("nt\n", "nt\n<think>\n"),
    "switches": LOOP
    + TURN
    + "{% endfor %}"
    + OPEN
    + "{% if enable_thinking is defined and not enable_thinking or '/no_think' in "
    "messages[-1].content %}<think>\n\n</think>\n\n{% endif %}",
    "repeats": LOOP + TURN + "{{ m.content }}\n{% endfor %}" + OPEN,
    "skips-empty": LOOP + "{% if m.content %}" + TURN + "{% endif %}{% endfor %}" + OPEN,
    "dated": "Today: {{ strftime_now('%d %b %Y') }}\n" + LOOP + TURN + "{% endfor %}" + OPEN,
}


def _special(text: str, special: bool = True) -> AddedToken:
    return AddedToken(text, special=special, normalized=False)


@cache
def _byte_level() -> RawTokenizer:
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, show_progress=False, special_tokens=["<s>"]
    )
    raw.train_from_iterator([" ".join(_WORDS), "\n\n".join(_WORDS), ".\n\n(answer)"] * 3, trainer)
    return raw


def _sentencepiece(kind: str) -> RawTokenizer:
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for piece in [*(f"<0x{i:02X}>" for i in range(256)), *_ASCII, "▁"]:
        vocab.setdefault(piece, len(vocab))
    merges = []
    for word in [*("▁" + word for word in _WORDS), *_WORDS, "▁▁", "\n\n"]:
        for stop in range(2, len(word) + 1):
            merge = (word[: stop - 1], word[stop - 1])
            if merge not in merges:
                merges.append(merge)
                vocab.setdefault(word[:stop], len(vocab))
    raw = RawTokenizer(
        models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    if kind == "legacy":
        raw.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        scheme = kind.removeprefix("metaspace-")
        raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    raw.add_special_tokens([_special(text) for text in ("<unk>", "<s>", "</s>")])
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return raw


def chat_tokenizer(kind: str, template: str) -> PreTrainedTokenizerFast:
    """A tokenizer of a kind with a chat template; `template` is a name of `TEMPLATES` or a source.

    All kinds have the turn tokens, and the thinking tags as tokens that are not special.
    """
    byte_level = kind in ("byte-level", "turns-not-special")
    text = _byte_level().to_str() if byte_level else _sentencepiece(kind).to_str()
    raw = RawTokenizer.from_str(text)
    raw.add_tokens([_special(tag, special=False) for tag in THINK])
    special = kind != "turns-not-special"
    add = raw.add_special_tokens if special else raw.add_tokens
    add([_special(text, special) for text in (*TURNS, "[INST]", "[/INST]")])
    raw.add_special_tokens([_special("</s>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATES.get(template, template)
    return tokenizer

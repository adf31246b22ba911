"""Synthetic inputs of the builder: real text and a tokenizer made from it, lengths drawn.

The text is the source code of Python's own library, which is on every machine. Lengths in tokens
are lognormal, with medians near published ones. A solution that thinks has 5,000 (AggLM, arXiv
2509.06870, has 10.2k on average; OpenMathReasoning's are shorter). A refinement has 2,500 (AggLM:
3.0k on average), a candidate without thinking 600, a problem 80.
"""

from __future__ import annotations

import json
import random
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from gsr_engine.checkpoint.digest import tokenizer_digest

MEDIANS = {"problem": 80, "candidate": 600, "direct": 5000, "refine": 2500}
LONGEST = 15_000
_SIGMA = 0.5
_CORPUS_CHARACTERS = 8_000_000
_VOCAB = 32_000
_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# How Qwen's and Llama 3's tokenizers cut text into words, in short.
_WORDS = Regex(r"(?i:'[a-z]{1,2})|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+")


def corpus() -> str:
    """Text to cut pieces from."""
    texts: list[str] = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        texts.append(path.read_text(encoding="utf-8", errors="ignore"))
    text = "".join(texts)
    return (text * (_CORPUS_CHARACTERS // len(text) + 1))[:_CORPUS_CHARACTERS]


def write_student(folder: Path, text: str) -> None:
    """A tokenizer in a checkpoint's folder: byte-level BPE, trained on the text."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_WORDS, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw.train_from_iterator(
        text.splitlines(keepends=True),
        trainers.BpeTrainer(
            vocab_size=_VOCAB,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = _CHATML
    tokenizer.save_pretrained(folder)


@dataclass(frozen=True, slots=True)
class Cutter:
    """Cuts pieces of drawn lengths from a text that is tokenised once.

    `tokenizer` is the digest of the tokenizer of `token_ids`.
    """

    text: str
    token_ids: list[int]
    starts: list[int]
    rng: random.Random
    tokenizer: str = ""

    @classmethod
    def of(cls, text: str, student: Path, seed: int = 0) -> Cutter:
        """Over a text, with the tokenizer of a folder."""
        tokenizer = PreTrainedTokenizerFast.from_pretrained(str(student))
        encoded = tokenizer(text, return_offsets_mapping=True)
        starts = [start for start, _ in encoded["offset_mapping"]]
        digest = tokenizer_digest(student)
        return cls(text, encoded["input_ids"], starts, random.Random(seed), digest)

    def piece(self, kind: str) -> tuple[str, list[int]]:
        """Text and ids of a piece of a kind of MEDIANS."""
        length = min(LONGEST, round(MEDIANS[kind] * self.rng.lognormvariate(0, _SIGMA)) + 1)
        start = self.rng.randrange(len(self.token_ids) - length - 1)
        text = self.text[self.starts[start] : self.starts[start + length]]
        return text, self.token_ids[start : start + length]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files of a build."""

    problems: Path
    candidates: Path
    direct_targets: Path
    refine_targets: Path
    evaluation: Path

    @property
    def bytes(self) -> int:
        """All of them together."""
        return sum(path.stat().st_size for path in asdict(self).values())


def answer_sets(sets: Path, targets: Path) -> None:
    """Give refinement targets, written for problems, the ids of those problems' sets."""
    with sets.open(encoding="utf-8") as file:
        ids = {one["problem_id"]: one["id"] for one in map(json.loads, file)}
    renamed = targets.with_suffix(".renamed")
    with targets.open(encoding="utf-8") as old, renamed.open("w", encoding="utf-8") as new:
        for target in map(json.loads, old):
            new.write(json.dumps(target | {"id": ids[target["id"]]}) + "\n")
    renamed.replace(targets)


def write_inputs(folder: Path, cutter: Cutter, prompts: int, pool: int) -> Inputs:
    """Write problems, each with a pool of candidates, a direct target and a refinement target.

    `answer_sets` assigns the refinement targets to sets, once these are drawn.
    """
    names = ("problems", "candidates", "direct_targets", "refine_targets", "evaluation")
    inputs = Inputs(*(folder / f"{name}.jsonl" for name in names))
    files = {name: getattr(inputs, name).open("w", encoding="utf-8") for name in names}

    def write(name: str, **record: Any) -> None:
        files[name].write(json.dumps(record) + "\n")

    for number in range(prompts):
        problem = f"p{number}"
        write("problems", id=problem, problem=f"{number}: {cutter.piece('problem')[0]}", answer="1")
        for sample in range(pool):
            text, ids = cutter.piece("candidate")
            answer = str(cutter.rng.choice((1, 1, 2, 3)))
            write(
                "candidates",
                id=problem,
                sample=sample,
                text=text,
                token_ids=ids,
                tokenizer=cutter.tokenizer,
                answer=answer,
                correct=answer == "1",
                finish_reason="stop",
            )
        for name in ("direct", "refine"):
            text, _ = cutter.piece(name)
            target = {"id": problem, "sample": 0, "text": text, "correct": True}
            write(f"{name}_targets", **target, source="teacher")
    for number in range(500):
        write("evaluation", id=f"e{number}", problem=f"evaluated {number} {number}", answer="1")
    for file in files.values():
        file.close()
    return inputs

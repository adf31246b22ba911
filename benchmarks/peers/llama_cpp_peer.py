"""llama.cpp (package `llama-cpp-python`), in an environment of its own.

One sequence per stream in a unified KV cache. A prompt is read once, and its sequence is copied to
the other streams of the problem. What a prompt has in common with the one before it is kept, as
llama.cpp's server does. Weights and KV are in the job's dtype. In 8 bits weights are Q8_0, and KV
is fp16, llama.cpp's default. Sampling is llama.cpp's own. So is the choice of its flash attention,
which is faster on a CPU than its other one, and rounds to less than fp32.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path

import llama_cpp
import numpy as np
from gguf import GGMLQuantizationType

from benchmarks.peers.gguf_checkpoint import write_gguf
from benchmarks.peers.job import Job, Loaded, serve
from benchmarks.peers.text_loss import Logits, text_loss

_KV_TYPES = {"float32": GGMLQuantizationType.F32, "bfloat16": GGMLQuantizationType.BF16}
_BATCH = 2048
_LOGITS = 256
"""Rows whose logits llama.cpp holds at once."""
_SEED = 1

Row = tuple[int, int, int, bool]
"""Token, position, sequence, and whether its logits are needed."""


def converted(model: Path, dtype: str) -> Path:
    """The model as GGUF; the first call writes it."""
    file = Path(sys.prefix).parent / "models" / f"{model.name}-{dtype}.gguf"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        write_gguf(model, dtype, file)
    return file


def end_tokens(model: Path) -> list[int]:
    """The end tokens that the checkpoint names."""
    for name in ("generation_config.json", "config.json"):
        file = model / name
        if file.exists():
            found = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
            if found is not None:
                return [found] if isinstance(found, int) else list(found)
    return []


class Sequences:
    """A model and its KV cache.

    The prompt of problem p is read into sequence p; stream i of P problems is sequence i * P + p.
    """

    def __init__(self, job: Job) -> None:
        folder = Path(job.model)
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(
            str(converted(folder, "q8_0" if job.quantization else job.dtype)).encode(),
            llama_cpp.llama_model_default_params(),
        )
        self._streams = max(job.num_streams, len(job.refine_prompts))
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = self._cells(job)
        params.n_batch = max(_BATCH, self._streams)
        params.n_seq_max = self._streams
        params.n_threads = params.n_threads_batch = job.threads
        if not job.quantization:
            params.type_k = params.type_v = _KV_TYPES[job.dtype]
        params.kv_unified = True
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError("llama.cpp gives no context, see above")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(params.n_batch, 0, 1)
        self._batch_size = params.n_batch
        self._banned = [] if job.ignore_eos else end_tokens(folder)
        self._samplers = {greedy: self._sampler(greedy) for greedy in (False, True)}
        self._kept: list[list[int]] = []

    @staticmethod
    def _cells(job: Job) -> int:
        """KV cells for the larger phase; a few more, because llama.cpp rounds."""
        drawn = sum(len(p) + job.k * job.candidate_tokens for p in job.prompts)
        refined = sum(len(p) + job.refine_tokens for p in job.refine_prompts)
        return max(drawn, refined, job.longest) + 256

    def _sampler(self, greedy: bool) -> object:
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        if self._banned:
            vocab = llama_cpp.llama_model_get_vocab(self._model)
            biases = (llama_cpp.llama_logit_bias * len(self._banned))(
                *((token, float("-inf")) for token in self._banned)
            )
            bias = llama_cpp.llama_sampler_init_logit_bias(
                llama_cpp.llama_vocab_n_tokens(vocab), len(biases), biases
            )
            llama_cpp.llama_sampler_chain_add(chain, bias)
        if greedy:
            llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_greedy())
        else:  # temperature 1
            llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_dist(_SEED))
        return chain

    def generate(self, prompts: list[list[int]], n: int, tokens: int) -> list[list[int]]:
        """The tokens of every stream, in order of sequences."""
        streams = self._read(prompts, n)
        for at in range(len(prompts), len(streams)):
            source = at % len(prompts)
            llama_cpp.llama_memory_seq_cp(self._memory, source, at, -1, -1)
        sampler = self._samplers[n == 1]
        for step in range(tokens - 1):
            rows = [
                (stream[-1], len(prompts[at % len(prompts)]) + step, at, True)
                for at, stream in enumerate(streams)
            ]
            self._decode(rows)
            for at, stream in enumerate(streams):
                stream.append(llama_cpp.llama_sampler_sample(sampler, self._context, at))
        return streams

    def logits(self, text: list[int]) -> Logits:
        """The logits of all tokens of a text, [tokens, vocabulary]; the cache is empty after it."""
        llama_cpp.llama_memory_clear(self._memory, True)
        self._kept = []
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        found = np.empty((len(text), llama_cpp.llama_vocab_n_tokens(vocab)), dtype=np.float32)
        for start in range(0, len(text), _LOGITS):
            part = text[start : start + _LOGITS]
            self._decode([(token, start + at, 0, True) for at, token in enumerate(part)])
            rows = found[start : start + len(part)]
            rows[:] = np.ctypeslib.as_array(llama_cpp.llama_get_logits(self._context), rows.shape)
        llama_cpp.llama_memory_clear(self._memory, True)
        return found

    def _read(self, prompts: list[list[int]], n: int) -> list[list[int]]:
        """Read the prompts, and draw the first token of every stream."""
        kept = self._forget(prompts)
        rows = [
            (token, position, at, position == len(prompt) - 1)
            for at, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
            if position >= kept[at]
        ]
        first: dict[int, list[int]] = {}
        for start in range(0, len(rows), self._batch_size):
            part = rows[start : start + self._batch_size]
            self._decode(part)
            for row, (_, _, at, is_last) in enumerate(part):
                if is_last:
                    draw = self._samplers[n == 1], self._context, row
                    first[at] = [llama_cpp.llama_sampler_sample(*draw) for _ in range(n)]
        self._kept = prompts
        return [[first[at][i]] for i in range(n) for at in range(len(prompts))]

    def _forget(self, prompts: list[list[int]]) -> list[int]:
        """Keep what each prompt has in common with the one before it; returns how many tokens."""
        kept = [
            min(_in_common(before, prompt), len(prompt) - 1)  # the last token gives logits
            for before, prompt in zip(self._kept, prompts, strict=False)
        ]
        kept += [0] * (len(prompts) - len(kept))
        for at in range(self._streams):
            start = kept[at] if at < len(kept) else 0
            llama_cpp.llama_memory_seq_rm(self._memory, at, start, -1)
        return kept

    def _decode(self, rows: Sequence[Row]) -> None:
        batch = self._batch
        batch.n_tokens = len(rows)
        for index, (token, position, at, needs_logits) in enumerate(rows):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, at
            batch.logits[index] = needs_logits
        if status := llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode failed with status {status}")


def _in_common(left: list[int], right: list[int]) -> int:
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))
    )


def _warn(level: int, text: bytes, _: int) -> None:
    """Keep warnings and errors, which llama.cpp counts as 3 and 4."""
    if level in (3, 4):
        sys.stderr.write(text.decode(errors="replace"))


# Kept for as long as llama.cpp may call it.
_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_warn)


def load(job: Job) -> Loaded:
    """The model for such jobs."""
    llama_cpp.llama_log_set(_LOG, ctypes.c_void_p(0))
    sequences = Sequences(job)

    def generate(prompts: list[list[int]], n: int, tokens: int) -> int:
        return sum(map(len, sequences.generate(prompts, n, tokens)))

    facts = {"llama-cpp-python": version("llama-cpp-python")}
    return Loaded(generate, facts, partial(text_loss, sequences.logits))


if __name__ == "__main__":
    serve(load)

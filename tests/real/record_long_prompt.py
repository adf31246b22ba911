"""Writes long_prompt.json: what transformers says behind the long prompt, in fp32.

python -m tests.real.record_long_prompt FILE.gguf
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from gsr_engine.checkpoint.digest import weights_digest
from gsr_engine.checkpoint.tokenizer import Tokenizer
from tests.real.prompts import long_text

STEPS, MOST = 5, 20
RECORD = Path(__file__).with_name("long_prompt.json")


def record(file: Path) -> dict[str, object]:
    """The greedy tokens, and at each the most likely tokens with their log-probabilities."""
    ids = Tokenizer.from_folder(file).encode_prompt(long_text())
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    generated = model.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=STEPS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = [logits[0].log_softmax(-1).topk(MOST) for logits in generated.logits]
    return {
        "weights": weights_digest(file),
        "prompt_tokens": len(ids),
        "token_ids": generated.sequences[0, len(ids) :].tolist(),
        "most_likely": [
            dict(zip(map(str, one.indices.tolist()), one.values.tolist(), strict=True))
            for one in best
        ],
    }


if __name__ == "__main__":
    RECORD.write_text(json.dumps(record(Path(sys.argv[1])), indent=1) + "\n")

"""Tokens and log-probabilities of a real model are those of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.oracle import shortfalls
from gsr_engine import Completion, Engine, SamplingParams, SelfRefineParams
from gsr_engine.checkpoint.model_config import ModelConfig
from gsr_engine.checkpoint.tensors import open_tensors
from tests.real.prompts import CONVERSATIONS, TEXTS

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real")]

NEAR = 1e-4
GREEDY = SamplingParams(max_tokens=24, temperature=0.0)


def expected_logits(oracle: PreTrainedModel, prompt: list[int], drawn: list[int]) -> torch.Tensor:
    """Logits [drawn tokens, vocabulary] that the tokens are drawn from."""
    ids = torch.tensor([prompt + drawn[:-1]])
    with torch.no_grad():
        logits: torch.Tensor = oracle(ids, logits_to_keep=len(drawn)).logits[0]
    return logits


def assert_as_in(oracle: PreTrainedModel, prompt: list[int], ours: Completion) -> None:
    """Every token is the oracle's best up to a tie, with the oracle's log-probability."""
    logits = expected_logits(oracle, prompt, ours.token_ids)
    assert bool((shortfalls(logits, ours.token_ids) < NEAR).all())
    expected = logits.log_softmax(-1)[range(len(ours.token_ids)), ours.token_ids]
    assert (torch.tensor(ours.logprobs) - expected).abs().max() < NEAR


def test_weights_equal_transformers(smollm2: Path, oracle: PreTrainedModel) -> None:
    theirs = oracle.state_dict()
    with open_tensors(smollm2, ModelConfig.from_folder(smollm2)) as stored:
        assert stored.notes == ()
        for name, tensor in theirs.items():
            if name != "lm_head.weight":  # it is the embedding
                assert torch.equal(stored.read(name, tuple(tensor.shape)), tensor), name


def test_greedy_tokens_and_log_probabilities(engine: Engine, oracle: PreTrainedModel) -> None:
    """Twenty prompts in one batch, each compared with a forward of its own."""
    raw = engine.generate(list(TEXTS), GREEDY)
    chats = engine.chat(list(CONVERSATIONS), GREEDY)
    for result in (*raw, *chats):
        assert_as_in(oracle, result.prompt_token_ids, result.completions[0])
    lengths = {len(result.prompt_token_ids) for result in (*raw, *chats)}
    assert len([*raw, *chats]) == 20
    assert min(lengths) == 1
    assert max(lengths) > 400


def test_ids_are_those_of_the_models_own_tokenizer(
    engine: Engine, tokenizer: PreTrainedTokenizerBase
) -> None:
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert engine.tokenizer.encode_prompt(text) == ids
        assert tokenizer.decode(engine.tokenizer.encode_text(text)) == text
    assert engine.tokenizer.encode_text("  12") == [256, 33, 34]


def test_the_chat_template_and_the_system_turn(
    engine: Engine, tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = []
    for messages in CONVERSATIONS:
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert engine.tokenizer.chat(messages) == ids
        texts.append(tokenizer.decode(ids))
    own = "<|im_start|>system\nYou answer in one word.<|im_end|>\n"
    assert ["You are a helpful AI assistant" in text for text in texts] == [
        True,
        False,
        True,
        True,
        True,
    ]
    assert texts[1].startswith(own)


def test_a_linear_refinement_is_transformers_on_the_composed_prompt(
    engine: Engine, oracle: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    params = SelfRefineParams(
        k=4,
        seed=3,
        candidate=SamplingParams(max_tokens=32),
        refine=SamplingParams(max_tokens=24, temperature=0.0),
    )
    problem = "What is 17 + 25?"
    request = engine.new_self_refine(problem, params)
    (result,) = engine.run([request])
    assert request.refinement is not None
    assert result.refinement is not None
    composed = [
        token
        for span in request.refinement.segment.context
        for token in span.segment.token_ids[span.start : span.stop]
    ]
    template = engine.gsr.template
    shown = "".join(template.separator + result.candidates[i].text for i in result.used)
    asked = problem + template.preamble + shown + template.linear
    assert len(result.used) == 4
    assert tokenizer.decode(composed) == tokenizer.apply_chat_template(
        [{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False
    )
    assert_as_in(oracle, composed, result.refinement)

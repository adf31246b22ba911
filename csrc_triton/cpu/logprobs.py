"""Log-probabilities."""

from csrc_triton.reference import token_logprobs as token_logprobs

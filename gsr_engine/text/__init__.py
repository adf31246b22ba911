"""Between text and token ids: prompts, stop strings, detokenization, answers."""

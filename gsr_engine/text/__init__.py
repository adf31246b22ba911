"""Between text and token ids: prompts, stop strings, detokenizing, answers."""

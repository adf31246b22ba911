"""Reads the files of a checkpoint folder: configuration, `gsr.json`, tokenizer."""

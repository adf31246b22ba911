"""The questions of the GSR paper, asked of models trained here and of a small real one."""

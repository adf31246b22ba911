"""The questions of the GSR paper, asked of models that are trained here, and of a small real one."""

"""The web page: a problem in, candidates side by side, the refinement, the costs."""

"""How far the graders can be trusted on the golds of a set of problems."""

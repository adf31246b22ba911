"""The model in the box and the puzzles that it solves."""

"""How often an engine is right: it solves, votes over and refines a set of problems, and a grader
compares the answers with the gold ones. The demo, the trainer and the benchmarks all measure here.
"""

"""Computes a step on one device: from a plan to drawn tokens."""

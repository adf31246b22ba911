"""Carries a step out: from a plan to drawn tokens, on one device."""

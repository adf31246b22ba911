"""selfRef@k end to end, beside other engines, in one run."""

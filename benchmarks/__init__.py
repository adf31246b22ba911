"""Studies: accuracy, throughput, reports; runs from a checkout."""

"""What a chip could do of selfRef@k, and what the launches as built can reach; no GPU runs."""

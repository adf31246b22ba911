"""What grows with what: the queue, k, lengths, problems, the host's share of a step."""

"""What the model in the box promises, what its recipe owes to each part, and its overhead."""

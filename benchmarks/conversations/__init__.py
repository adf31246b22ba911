"""What a conversation costs, turn by turn, beside a caller that keeps its own cache."""

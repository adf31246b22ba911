"""How often each method is right, and what it costs."""

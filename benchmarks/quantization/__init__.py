"""What fewer bits cost."""

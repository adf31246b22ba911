"""nano's own data and its first checkpoint."""

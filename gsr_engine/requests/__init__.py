"""What callers wait for: programs of streams; knows no tensors."""

"""The public functions with their contracts; `csrc_triton` exports them."""

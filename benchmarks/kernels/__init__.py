"""How fast each kernel is, against what the chip can do, and what it compiles to."""

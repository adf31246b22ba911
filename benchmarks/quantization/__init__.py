"""What products in 8 bits cost a model: loss over texts, and selfRef@k of nano."""

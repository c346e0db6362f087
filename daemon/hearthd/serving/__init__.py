"""Who owns engine processes, and who may use them."""

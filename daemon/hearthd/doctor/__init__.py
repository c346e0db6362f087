"""Doctor: what commonly goes wrong on a box, each with its cause in one line and the command that mends it."""

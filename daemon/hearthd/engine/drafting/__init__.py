"""Drafting: guesses of what comes next, made only where they are measured to pay."""

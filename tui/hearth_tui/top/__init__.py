"""`hearth top`: the box as it is now, and what operators do to it."""

"""A deterministic fake language model with a cost model: for tests and simulation."""

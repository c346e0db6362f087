"""The commands of `hearth`: one module each, with `add_arguments` and `run`."""

"""The data plane: one process that schedules and runs one model."""

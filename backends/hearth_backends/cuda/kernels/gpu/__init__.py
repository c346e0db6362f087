"""Kernels in Triton; importing what is in here needs it."""

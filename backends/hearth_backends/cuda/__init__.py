"""The paged-attention engine: torch, with Triton kernels on GPUs and plain torch on processors."""

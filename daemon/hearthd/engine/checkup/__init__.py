"""Whether a device computes rightly with a backend, and how fast: asked of a child process."""

"""What `hearth top` is made of: one widget a file, its style beside it."""

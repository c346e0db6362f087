"""What the chat is made of: one widget a file, its style beside it."""

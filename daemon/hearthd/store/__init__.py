"""SQLite files: one thread that writes each, one that reads it, and schemas that only grow."""

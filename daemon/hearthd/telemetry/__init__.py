"""What is measured while serving."""

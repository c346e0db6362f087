"""Where models may take memory."""

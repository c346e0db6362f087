"""The HTTP dialects, routes and middleware."""

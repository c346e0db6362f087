"""hearth: the command line and terminal of a Hearth box; speaks HTTP only."""

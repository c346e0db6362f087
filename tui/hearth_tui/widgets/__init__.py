"""Small widgets of more than one screen."""

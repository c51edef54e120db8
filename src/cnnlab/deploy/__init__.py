"""A run in the world."""

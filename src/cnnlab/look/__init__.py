"""A run alive in one page: its network computes there, and can be experimented with."""

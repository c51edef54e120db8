"""The run folder: names, whole-or-nothing writes, and models rebuilt from it."""

"""The model zoo: names, and models built from a name and arguments."""

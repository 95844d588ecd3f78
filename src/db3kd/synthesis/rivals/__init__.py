"""Other papers' ways to make samples without data, each by its own algorithm."""

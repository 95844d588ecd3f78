"""ZSDB3KD (section 3.3): noise of every class is pushed away from the boundary."""

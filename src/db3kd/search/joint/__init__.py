"""All classes at once: a local model proposes, the teacher verifies."""

"""The paper's tables, made with db3kd; nothing in the rest of the package depends on this."""

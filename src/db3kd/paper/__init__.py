"""The paper's tables, made with the public API: a customer of the house, not a part of it."""

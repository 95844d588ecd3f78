"""The ways of other papers to make samples without data, each with its own algorithm."""

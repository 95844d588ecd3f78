"""New images, made from the user's own; each is asked once (`docs/growing.md`)."""

"""What a user may choose: settings, and recipes that hold them. Nothing here loads torch."""

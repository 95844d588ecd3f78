"""db3kd."""

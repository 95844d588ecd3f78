"""Real servers from the registry in an environment of their own, and a proxy that breaks them."""

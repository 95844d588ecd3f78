"""These are helpers and scripts of another environment: no tests, and no doctests either."""

collect_ignore_glob = ["*.py"]

"""The helpers and scripts here are of another environment: no tests, and no doctests either."""

from pathlib import Path

HERE = Path(__file__).parent
collect_ignore = [file.name for file in HERE.glob("*.py") if not file.name.startswith("test_")]

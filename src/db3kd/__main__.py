"""`python -m db3kd` is the command line."""

from db3kd.cli.main import main

if __name__ == "__main__":
    main()

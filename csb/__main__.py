"""The command line: python -m csb."""

from csb.cli.main import main

if __name__ == "__main__":
    main()

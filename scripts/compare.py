"""Compares methods at equal network passes and at equal seconds: python scripts/compare.py problem=mixture."""

from csb.cli.main import main

if __name__ == "__main__":
    main(name="compare")

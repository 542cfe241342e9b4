"""Scores a finished run and compares it: python scripts/evaluate.py run=outputs/mnist_inpaint."""

from csb.cli.main import main

if __name__ == "__main__":
    main(name="evaluate")

"""Overheads of a run, or a suite: python scripts/benchmark.py run=outputs/mnist_inpaint, or suite=sbi."""

from csb.cli.main import main

if __name__ == "__main__":
    main(name="benchmark")

"""Serves a page to try a bridge on digits: python scripts/demo.py run=outputs/mnist_inpaint_anywhere."""

from csb.cli.main import main

if __name__ == "__main__":
    main(name="demo")

"""A page on this machine to try a bridge on digits: ``python scripts/demo.py run=outputs/mnist_inpaint_anywhere``."""

from csb.run.demo.command import demo, validate

__all__ = ["demo", "validate"]

"""A page on this machine to try a bridge on digits: ``csb demo run=outputs/mnist_inpaint_anywhere``."""

"""A page on this machine to try a bridge, of digits or of vectors: ``csb demo run=outputs/mnist_inpaint_anywhere``."""

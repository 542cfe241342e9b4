"""Trains a conditional Schrödinger bridge: python train.py experiment=mnist_inpaint."""

from csb.cli.main import main

if __name__ == "__main__":
    main(name="train")

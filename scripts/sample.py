"""Draws posterior samples from a trained bridge: python scripts/sample.py run=outputs/two_moons n=1000 out=s.npz."""

from csb.cli.main import main

if __name__ == "__main__":
    main(name="sample")

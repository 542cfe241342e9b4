"""The suite of speeds: csb benchmark suite=speed."""

from csb.run.speed.command import check, speed

__all__ = ["check", "speed"]

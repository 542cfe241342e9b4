"""The suite of speeds: csb benchmark suite=speed."""

from suites.speed.command import check, speed

__all__ = ["check", "speed"]

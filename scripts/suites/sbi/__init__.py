"""The suite: trainings and scores of several methods on several problems, a process each, into one table."""

from suites.sbi.command import check, suite

__all__ = ["check", "suite"]

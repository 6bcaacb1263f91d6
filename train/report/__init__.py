"""From the records of runs to tables, figures and verdicts."""

from train.report.write import write

__all__ = ['write']

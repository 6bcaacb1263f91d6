"""From the records of runs to tables, figures and verdicts."""

from train.report.write import write
from train.report.write import write_found

__all__ = ['write', 'write_found']

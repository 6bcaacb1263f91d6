"""Makes tables, figures and verdicts from the records of runs."""

from train.report.write import write
from train.report.write import write_found

__all__ = ['write', 'write_found']

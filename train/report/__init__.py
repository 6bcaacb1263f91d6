"""From run directories to tables, figures and a verdict."""

from train.report.figures import draw_phases
from train.report.figures import draw_run
from train.report.write import write
from train.report.write import write_found

__all__ = ['draw_phases', 'draw_run', 'write', 'write_found']

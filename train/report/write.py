"""The report on a set of runs: report.md and its pictures."""

from collections.abc import Iterable
import pathlib

from train import errors
from train.report import figures
from train.report import records
from train.report import tables


def write(directories: Iterable[pathlib.Path], out: pathlib.Path) -> str:
  """Writes report.md and curves.png.

  Args:
    directories: Where the runs are, at any depth.
    out: Folder to write into; made if absent.

  Returns:
    The text of report.md.

  Raises:
    UsageError: There is no finished run, or ``out`` cannot be written.
  """
  arms = records.group_into_arms(records.find_runs(directories))
  if not any(arm.finished for arm in arms):
    raise errors.UsageError(
      'There is no finished run: a report is made of finished runs alone.'
    )
  comparisons = tables.comparisons_table(arms)
  paragraphs = ['# Report', tables.errors_table(arms)]
  unfinished = [
    f'{run.path.name} of {arm.name} is {run.summary["status"]}'
    for arm in arms
    for run in arm.runs
    if run.summary['status'] != 'done'
  ]
  if unfinished:
    paragraphs.append(f'Left out of the figures: {"; ".join(unfinished)}.')
  if comparisons is not None:
    paragraphs += [
      'Runs of the same seed share their start and the order of their images,'
      ' so they are compared in pairs (paired t-test).',
      comparisons,
    ]
  paragraphs.append(
    '"final" is the test error after the last epoch; "best epoch" is the lowest'
    ' of any epoch, which the test set itself chose.'
  )
  paragraphs.append('![Curves of all arms](curves.png)')
  text = '\n\n'.join(paragraphs) + '\n'
  try:
    out.mkdir(parents=True, exist_ok=True)
    (out / 'report.md').write_text(text)
    figures.draw_arms(arms, out / 'curves.png', _title(arms))
  except OSError as error:
    raise errors.UsageError(
      f'--out {out} cannot be written: {error.strerror}.'
    ) from error
  return text


def _title(arms: list[records.Arm]) -> str:
  networks = {
    'WRN-{depth}-{widen_factor} on {dataset}'.format(**run.config)
    for arm in arms
    for run in arm.runs
  }
  return ', '.join(sorted(networks))

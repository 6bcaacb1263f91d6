"""The report on a set of runs: a Markdown file and its pictures."""

from collections.abc import Iterable, Sequence
import pathlib

from train import errors
from train import records
from train.records import Arm
from train.records import files
from train.report import figures
from train.report import grid
from train.report import paper
from train.report import safe
from train.report import statistics
from train.report import studies
from train.report import tables


def write(
  directories: Iterable[pathlib.Path],
  out: pathlib.Path,
  name: str = 'report.md',
) -> str:
  """Writes the report and its pictures.

  Args:
    directories: Where the runs are, at any depth.
    out: Folder to write into; made if absent.
    name: Of the Markdown file.

  Returns:
    The text of the report.

  Raises:
    UsageError: There is no finished run and no study, or ``out`` cannot be
      written.
  """
  directories = list(directories)
  found = records.find(directories)
  if not found.runs and not found.studies:
    given = ', '.join(str(directory) for directory in directories)
    raise errors.UsageError(f'There is no run in {given}.')
  return write_found(found, out, name)


def write_found(
  found: records.Found, out: pathlib.Path, name: str = 'report.md'
) -> str:
  """Writes the report on what :func:`train.records.find` has found.

  What it has left out is said at the top of the report. A study that cannot be
  drawn is left out too, and added to it.

  Args:
    found: The records.
    out: Folder to write into; made if absent.
    name: Of the Markdown file.

  Returns:
    The text of the report.

  Raises:
    UsageError: There is no finished run and no study, or ``out`` cannot be
      written.
  """
  arms = records.group_into_arms(found.runs)
  if not found.studies and not any(arm.finished for arm in arms):
    raise errors.UsageError(
      'There is no finished run: a report is made of finished runs alone.'
    )
  try:
    out.mkdir(parents=True, exist_ok=True)
    paragraphs = _unfinished(arms)
    of_the_paper: set[str] = set()
    for prefix in ('', 'small-'):
      by_name = {
        arm.name.removeprefix(prefix): arm
        for arm in arms
        if arm.name.startswith('small-') == bool(prefix)
      }
      section, shown = _paper_section(by_name, prefix, out)
      of_the_paper |= {by_name[name].name for name in shown}
      paragraphs += section
    others = [arm for arm in arms if arm.name not in of_the_paper]
    grids = grid.find(others)
    on_grids = {arm.name for found in grids for arm in found.cells.values()}
    others = [arm for arm in others if arm.name not in on_grids]
    if others:
      paragraphs += _other_section(others, out)
    for i, of_grid in enumerate(grids):
      name_of_picture = f'grid-{i + 1}.png' if i else 'grid.png'
      paragraphs += _grid_section(of_grid, out, name_of_picture)
    paragraphs += _phases_section(arms, out)
    paragraphs += studies.describe_all(found.studies, out, found.left_out)
    if not paragraphs:
      raise errors.UsageError(f'No record can be shown. {found.left_out[0]}')
    text = (
      '\n\n'.join(['# Report', *_told(found), *paragraphs, _HOW_TO_READ]) + '\n'
    )
    files.replace_text(out / name, text)
  except OSError as error:
    raise errors.UsageError(
      f'--out {out} cannot be written: {error.strerror}.'
    ) from error
  return text


_HOW_TO_READ = """\
## How to read this

- Runs of the same seed share their start, the order of their images and their
  crops, in every arm, so arms are compared pairwise: "points" is the mean
  difference in percentage points, p is of a paired t-test, and in a table of
  several comparisons it is Holm's, so that among equal arms a whole table has a
  false finding in one of twenty cases. Verdicts go by p; intervals are those of
  each difference alone.
- "could have found" is the true difference that this test would have found with
  a probability of 80 %. "No difference found" says no more than that a
  difference is likely to be smaller.
- "final" is the test error after the last epoch. "best epoch" is the lowest of
  any epoch, which the test set itself chose: it is no estimate of anything.
- The test set chose nothing: settings are those of the paper."""


def _told(found: records.Found) -> list[str]:
  """What the reader must know of the records before anything else."""
  paragraphs = []
  if found.left_out:
    count = len(found.left_out)
    paragraphs += [
      f'**{count} {"records are" if count > 1 else "record is"} left out:**',
      '\n'.join(f'- {safe.markdown(sentence)}' for sentence in found.left_out),
    ]
  return [*paragraphs, *map(safe.markdown, found.notes)]


def _unfinished(arms: Sequence[Arm]) -> list[str]:
  listed = [
    safe.markdown(f'{run.path.name} of {arm.name} is {run.summary["status"]}')
    for arm in arms
    for run in arm.runs
    if run.summary['status'] != 'done'
  ]
  return [f'Left out of the figures: {"; ".join(listed)}.'] if listed else []


def _other_section(arms: Sequence[Arm], out: pathlib.Path) -> list[str]:
  comparisons = tables.comparisons_table(tables.every_pair(arms))
  finished = [run for arm in arms for run in arm.finished]
  if len(finished) == 1:
    title = f'{arms[0].name}, seed {finished[0].seed}'
    figures.draw_run(finished[0].rows, out / 'curves.png', title)
  else:
    figures.draw_arms(arms, out / 'curves.png', _networks(arms))
  return [
    tables.errors_table(arms),
    *([comparisons] if comparisons is not None else []),
    '![Curves of all arms](curves.png)',
  ]


def _grid_section(
  of_grid: grid.Grid, out: pathlib.Path, picture: str
) -> list[str]:
  cells = of_grid.cells
  title = f'{of_grid.is_of} under {len(cells)} pairs of momenta'
  figures.draw_heat_map(cells, out / picture, title)
  comparisons = grid.comparisons_table(of_grid)
  counts = sorted({len(arm.finished) for arm in cells.values()})
  seeds = ' to '.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))
  return [
    f'## {safe.markdown(title)}',
    f'{_networks(list(cells.values()))}: {_machines(cells.values())}, n ='
    f' {seeds} seeds a pair. Where both momenta are the same the momentum is'
    ' fixed. The lowest of so many figures is low by chance too, and the test'
    ' set must not choose: the table averages over the pairs instead, seed by'
    ' seed.',
    *([comparisons] if comparisons is not None else []),
    f'![Final test error by horizontal and vertical momentum]({picture})',
  ]


def _phases_section(arms: Sequence[Arm], out: pathlib.Path) -> list[str]:
  """One run, whatever the number of runs: each has its own picture already."""
  for arm in arms:
    for run in arm.finished:
      steps = run.steps  # From its file.
      if not any(row['horizontal'] for row in steps):
        continue
      title = f'{arm.name}, seed {run.seed}'
      figures.draw_phases(steps, run.config, out / 'phases.png', title)
      return [
        '## Loss and running mean',
        f'The steps of one run, {safe.markdown(title)}. Below the line, which'
        ' begins anew with each epoch, a loss makes the next step one with the'
        ' horizontal momentum.',
        '![Losses against their running mean, by phase](phases.png)',
      ]
  return []


def _paper_section(
  by_name: dict[str, Arm], prefix: str, out: pathlib.Path
) -> tuple[list[str], set[str]]:
  """The paper's experiments at one size, and the names of those shown."""
  sections = []
  shown: set[str] = set()
  for family in paper.families():
    arms = [by_name[name] for name in family.members if name in by_name]
    # A family that is only what it is compared with says nothing new.
    if not any(name in by_name for name in family.members if name not in shown):
      continue
    shown |= {name for name in family.members if name in by_name}
    sections += [f'### {family.title}', tables.paper_errors_table(arms)]
    first = by_name.get(family.against or '')
    comparisons = tables.comparisons_table(
      tables.every_pair(arms)
      if first is None
      else [(first, other) for other in arms if other is not first]
    )
    if comparisons is not None:
      sections.append(comparisons)
    if family.picture is not None and any(arm.finished for arm in arms):
      file = f'{prefix}{family.picture}.png'
      figures.draw_errors({family.title: arms}, out / file)
      sections.append(f'![{family.title}]({file})')
  if not shown:
    return [], shown

  panels = {
    paper.DATASETS[dataset]: [
      by_name[name] for name in names if name in by_name
    ]
    for dataset, names in paper.FIGURE_4.items()
    if any(name in by_name and by_name[name].finished for name in names)
  }
  head = [
    '## The paper at its own size' if not prefix else '## The small scale',
    f'{_networks(list(by_name.values()))}: {_machines(by_name.values())}.',
  ]
  if prefix:
    head.append(paper.SMALL_SCALE)
  if panels:
    file = f'{prefix}figure4.png'
    figures.draw_errors(panels, out / file)
    sections += ['### Figure 4: the curves', f'![Figure 4]({file})']
  shares = _panels_of_shares(by_name)
  if shares:
    file = f'{prefix}horizontal-fraction.png'
    figures.draw_shares(shares, out / file)
    title = 'The share of horizontal steps'
    sections += [f'### {title}', f'![{title}]({file})']
  return [*head, *_claims(by_name, prefix, out), *sections], shown


def _panels_of_shares(by_name: dict[str, Arm]) -> dict[str, list[Arm]]:
  """The paper's arms of LCAM by the figure that they belong to."""
  members = {
    'Figure 2: CIFAR-10': paper.FIGURE_2.members,
    'Figure 3: CIFAR-100': paper.FIGURE_3.members,
    **{
      f'Figure 4: {paper.DATASETS[dataset]}': names
      for dataset, names in paper.FIGURE_4.items()
    },
  }
  panels = {
    title: [
      by_name[name]
      for name in names
      if name in by_name and by_name[name].has_phases and by_name[name].finished
    ]
    for title, names in members.items()
  }
  return {title: arms for title, arms in panels.items() if arms}


def _claims(
  by_name: dict[str, Arm], prefix: str, out: pathlib.Path
) -> list[str]:
  compared = [
    (claim, comparison)
    for claim in paper.claims()
    if claim.first in by_name
    and claim.second in by_name
    and (
      comparison := tables.compare(by_name[claim.first], by_name[claim.second])
    )
    is not None
  ]
  if not compared:
    return []
  adjusted = statistics.adjust([comparison for _, comparison in compared])
  judged = [
    (claim, comparison)
    for (claim, _), comparison in zip(compared, adjusted, strict=True)
  ]
  found = [claim.judge(comparison.verdict) for claim, comparison in judged]
  counts = ', '.join(
    f'{found.count(word)} {word}' for word in dict.fromkeys(sorted(found))
  )
  file = f'{prefix}claims.png'
  figures.draw_claims(judged, out / file)
  return [
    *_in_short(by_name, judged),
    '### The claims',
    'Differences in test error, the first minus the second: below zero is what'
    ' the paper claims, but for "very close". "implied" is what the paper does'
    ' not say, and what must hold if the loss is the reason for its results.',
    f'Of {len(judged)} claims: **{counts}**.',
    tables.claims_table(judged),
    f'![The claims, with 95 % intervals]({file})',
  ]


_ON_THE_LOSS = {
  'as claimed': 'To choose the momentum by the loss is better than by a coin.',
  'the opposite': 'To choose the momentum by the loss is worse than by a coin.',
  'no difference found': 'Nothing was found that the loss adds to a coin.',
}


def _in_short(
  by_name: dict[str, Arm],
  judged: Sequence[tuple[paper.Claim, statistics.Comparison]],
) -> list[str]:
  """A sentence or two on LCAM's final run for each data set."""
  sentences = []
  for dataset, name in paper.DATASETS.items():
    lcam = f'figure4-{dataset}-lcam'
    of_lcam = [(c, found) for c, found in judged if c.first == lcam]
    if not of_lcam:
      continue
    error = statistics.describe(list(by_name[lcam].read_off_errors().values()))
    against = '; '.join(
      f'{claim.other} {comparison.difference.mean:+.2f} ({comparison.verdict})'
      for claim, comparison in of_lcam
    )
    on_the_loss = [
      _ON_THE_LOSS.get(claim.judge(comparison.verdict), '')
      for claim, comparison in of_lcam
      if claim.second == f'ablation-{dataset}-coin'
    ]
    sentences.append(
      f'- **{name}:** LCAM has a test error of {error.mean:.2f} %'
      f' (n={error.n}). In points against {against}. {"".join(on_the_loss)}'
    )
  return ['### In short', '\n'.join(sentences)] if sentences else []


def _networks(arms: Sequence[Arm]) -> str:
  networks = {
    'WRN-{depth}-{widen_factor} on {dataset}'.format(**run.config)
    for arm in arms
    for run in arm.runs
  }
  return ', '.join(sorted(networks))


def _machines(arms: Iterable[Arm]) -> str:
  runs = [run for arm in arms for run in arm.runs]
  machines = {
    '{} x {} with jax {}'.format(
      run.config['device_count'],
      safe.markdown(run.config['device_kind']),
      run.config['versions'].get('jax'),
    )
    for run in runs
    if run.config.keys() >= {'versions', 'device_count', 'device_kind'}
  }
  return f'{len(runs)} runs on {", ".join(sorted(machines)) or "unknown"}'

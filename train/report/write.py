"""The report on a set of runs: a Markdown file and its pictures."""

from collections.abc import Iterable, Sequence
import dataclasses
import itertools
import pathlib

from train import errors
from train import files
from train import pictures
from train import records
from train import safe
from train import statistics
from train import studies
from train.records import Arm
from train.report import contrasts
from train.report import figures
from train.report import grid
from train.report import paper
from train.report import tables
from train.statistics import Verdict


@dataclasses.dataclass
class _Sheet:
  """What the sections of a report share."""

  out: pathlib.Path
  relative_margin: float
  judged: list[contrasts.Contrast] = dataclasses.field(default_factory=list)
  """All that was judged so far, in the order of the report."""

  def judge(
    self, models: contrasts.Models, family: Sequence[contrasts.Question]
  ) -> list[contrasts.Contrast | None]:
    answers = models.judge(family)
    self.judged += [answer for answer in answers if answer is not None]
    return answers

  def family(
    self, models: contrasts.Models, family: Sequence[contrasts.Question]
  ) -> list[str]:
    """The table of a family, nothing where no question has an answer."""
    answers = self.judge(models, family)
    found = [(a.name, a.judgement) for a in answers if a is not None]
    return [tables.contrasts_table(found)] if found else []


def write(
  directories: Iterable[pathlib.Path],
  out: pathlib.Path,
  name: str = 'report.md',
  margin: float = 100 * statistics.RELATIVE_MARGIN,
) -> str:
  """Writes the report, its pictures, and report.json.

  Args:
    directories: Where the runs are, at any depth.
    out: Folder to write into; made if absent.
    name: Of the Markdown file.
    margin: Of equivalence, in percent of the error of the control.

  Returns:
    The text of the report.

  Raises:
    UsageError: There is no finished run and no study, ``out`` cannot be
      written, or ``margin`` is out of range.
  """
  return write_found(records.find(directories), out, name, margin)


def write_found(
  found: records.Found,
  out: pathlib.Path,
  name: str = 'report.md',
  margin: float = 100 * statistics.RELATIVE_MARGIN,
) -> str:
  """Writes the report on what :func:`train.records.find` has found.

  What that has left out is said at the top of the report. A study that cannot
  be drawn is left out too, and added to it.

  Args:
    found: The records.
    out: Folder to write into; made if absent.
    name: Of the Markdown file.
    margin: Of equivalence, in percent of the error of the control.

  Returns:
    The text of the report.

  Raises:
    UsageError: See :func:`write`.
  """
  if not 0 < margin < 100:
    raise errors.UsageError(
      f'--margin must be above 0 and below 100, got {margin}.'
    )
  arms = records.group_into_arms(found.runs)
  if not found.studies and not any(arm.finished for arm in arms):
    raise errors.UsageError(
      'There is no finished run: a report is made of finished runs alone.'
    )
  sheet = _Sheet(out, margin / 100)
  try:
    out.mkdir(parents=True, exist_ok=True)
    paragraphs = _unfinished(arms)
    of_the_paper: set[str] = set()
    for scale, prefix in (('paper', ''), ('small', 'small-')):
      by_name = {
        arm.name.removeprefix(prefix): arm
        for arm in arms
        if arm.name.startswith('small-') == bool(prefix)
      }
      section, shown = _paper_section(by_name, scale, prefix, sheet)
      of_the_paper |= {by_name[name].name for name in shown}
      paragraphs += section
    others = [arm for arm in arms if arm.name not in of_the_paper]
    grids = grid.find(others)
    on_grids = {arm.name for found in grids for arm in found.cells.values()}
    others = [arm for arm in others if arm.name not in on_grids]
    if others:
      paragraphs += _other_section(others, sheet)
    for i, of_grid in enumerate(grids):
      name_of_picture = f'grid-{i + 1}.png' if i else 'grid.png'
      paragraphs += _grid_section(of_grid, sheet, name_of_picture)
    paragraphs += _phases_section(arms, out)
    paragraphs += _study_sections(found, out)
    if not paragraphs:
      raise errors.UsageError(f'No record can be shown. {found.left_out[0]}')
    paragraphs = ['# Report', *_told(found), *paragraphs]
    paragraphs.append(_HOW_TO_READ.format(margin=margin))
    text = '\n\n'.join(paragraphs) + '\n'
    files.replace_text(out / 'report.json', contrasts.to_json(sheet.judged))
    files.replace_text(out / name, text)
  except OSError as error:
    raise errors.UsageError(
      f'--out {out} cannot be written: {error.strerror}.'
    ) from error
  return text


_HOW_TO_READ = """\
## How to read this

- Runs of the same seed share their start, the order of their images and their
  crops, in every arm. All arms of a data set and scale are fitted together as
  arm + seed with one residual; "points" is the fitted difference in percentage
  points, for two arms the mean over their pairs of runs.
- A table of differences is a family, judged together. p is Holm's: among equal
  arms a whole table has a false difference in one of twenty cases. "interval"
  is Bonferroni's: in nineteen of twenty cases all intervals of a table hold
  their true differences. (Of several differences that are found, Holm's method
  may find one whose interval just reaches over zero.)
- The verdict is of the first of the two: *better* or *worse* where p is below
  0.05; *equivalent* where all of the interval lies within the margin, which is
  {margin:g} % of the error of the other; else *undecided*. A difference that is
  found and still smaller than the margin is said to be within it. Where the
  error is high, so is the margin.
- "could have found" is the true difference that this test, in this family,
  finds with a probability of 80 %. *Undecided* is not *equivalent*.
- "95 % interval" of an arm is that of its own runs alone.
- "final" is the test error after the last epoch. "best epoch" is the lowest of
  any epoch, which the test set itself chose: it is no estimate of anything.
- The test set chose nothing: settings are those of the paper.
- [report.json](report.json) holds the differences for programs."""


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


_UNFIT = (ArithmeticError, AssertionError, LookupError, TypeError, ValueError)


def _study_sections(found: records.Found, out: pathlib.Path) -> list[str]:
  """The paragraphs on all studies, whose pictures are drawn into a folder."""
  paragraphs: list[str] = []
  taken: set[str] = set()
  for study in found.studies:
    try:
      paragraphs += _study_section(study, out, taken)
    # What else a record must be for its figures to be judged and drawn is known
    # to the study alone.
    except _UNFIT as error:
      reason = ' '.join(str(error).split()) or 'its figures do not fit'
      found.left_out.append(
        f'{study.path} cannot be drawn: {type(error).__name__}, {reason}.'
      )
  return ['## The explanations', *paragraphs] if paragraphs else []


def _study_section(
  study: records.Study, out: pathlib.Path, taken: set[str]
) -> list[str]:
  """The paragraphs on a study. Its picture is drawn into ``out``.

  Args:
    study: The study.
    out: The folder.
    taken: Names of pictures that there are; gets that of this one.
  """
  module, record = studies.STUDIES[study.kind].load(), study.record
  stem = picture = safe.file_name(module.picture(record))
  for i in itertools.count(2):
    if picture not in taken:
      break
    picture = f'{stem}-{i}'
  taken.add(picture)
  module.draw(record, out / f'{picture}.png')
  title = safe.markdown(module.title(record))
  return [
    f'### {title}',
    module.summary(record),
    '\n'.join(
      f'- {safe.markdown(sentence)}' for sentence in module.sentences(record)
    ),
    f'![{title}]({picture}.png)',
  ]


def _unfinished(arms: Sequence[Arm]) -> list[str]:
  listed = [
    safe.markdown(f'{run.path.name} of {arm.name} is {run.summary["status"]}')
    for arm in arms
    for run in arm.runs
    if run.summary['status'] != 'done'
  ]
  return [f'Left out of the figures: {"; ".join(listed)}.'] if listed else []


def _other_section(arms: Sequence[Arm], sheet: _Sheet) -> list[str]:
  models = contrasts.Models('other', arms, sheet.relative_margin)
  picture = sheet.out / 'curves.png'
  finished = [run for arm in arms for run in arm.finished]
  if len(finished) == 1:
    title = f'{arms[0].name}, seed {finished[0].seed}'
    pictures.draw_run(finished[0].rows, picture, title)
  else:
    figures.draw_arms(arms, picture, _networks(arms))
  return [
    tables.errors_table(arms),
    *sheet.family(models, contrasts.pairs(arms)),
    '![Curves of all arms](curves.png)',
  ]


def _grid_section(of_grid: grid.Grid, sheet: _Sheet, picture: str) -> list[str]:
  cells = of_grid.cells
  title = f'{of_grid.is_of} under {len(cells)} pairs of momenta'
  figures.draw_heat_map(cells, sheet.out / picture, title)
  models = contrasts.Models(
    of_grid.is_of, cells.values(), sheet.relative_margin, Arm.final_errors
  )
  counts = sorted({len(arm.finished) for arm in cells.values()})
  seeds = ' to '.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))
  return [
    f'## {safe.markdown(title)}',
    f'{_networks(list(cells.values()))}: {_machines(cells.values())}, n ='
    f' {seeds} seeds a pair. Where both momenta are the same the momentum is'
    ' fixed. The lowest of so many figures is low by chance too, and the test'
    ' set must not choose: the table averages over the pairs instead, seed by'
    ' seed.',
    *sheet.family(models, grid.questions(of_grid)),
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
      pictures.draw_phases(steps, run.config, out / 'phases.png', title)
      return [
        '## Loss and running mean',
        f'The steps of one run, {safe.markdown(title)}. Below the line, which'
        ' begins anew with each epoch, a loss makes the next step one with the'
        ' horizontal momentum.',
        '![Losses against their running mean, by phase](phases.png)',
      ]
  return []


def _paper_section(
  by_name: dict[str, Arm], scale: str, prefix: str, sheet: _Sheet
) -> tuple[list[str], set[str]]:
  """The paper's experiments at one size, and the names of those shown."""
  members = {name for family in paper.families() for name in family.members}
  of_the_paper = {n: arm for n, arm in by_name.items() if n in members}
  models = contrasts.Models(scale, of_the_paper.values(), sheet.relative_margin)
  judged = _judge_claims(of_the_paper, models, sheet)
  claims = [
    *_in_short(by_name, judged),
    *_claims_section(judged, models, prefix, sheet.out),
  ]
  claimed = {frozenset((claim.first, claim.second)) for claim, _ in judged}

  sections = []
  shown: set[str] = set()
  out = sheet.out
  for family in paper.families():
    names = [name for name in family.members if name in by_name]
    # A family that is only what it is compared with says nothing new.
    if not set(names) - shown:
      continue
    shown |= set(names)
    arms = [by_name[name] for name in names]
    sections += [f'### {family.title}', tables.paper_errors_table(arms)]
    pairs = (
      [(family.against, name) for name in names if name != family.against]
      if family.against in names
      else list(itertools.combinations(names, 2))
    )
    asked = [pair for pair in pairs if frozenset(pair) not in claimed]
    if len(asked) < len(pairs):
      sections.append('What is claimed of these arms is judged above.')
    sections += sheet.family(
      models,
      [contrasts.difference(by_name[a], by_name[b]) for a, b in asked],
    )
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
  return [*head, *claims, *sections], shown


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


_Judged = Sequence[tuple[paper.Claim, statistics.Judgement]]


def _judge_claims(
  by_name: dict[str, Arm], models: contrasts.Models, sheet: _Sheet
) -> _Judged:
  """The claims on arms that there are, as one family."""
  claims = [
    claim
    for claim in paper.claims()
    if claim.first in by_name and claim.second in by_name
  ]
  answers = sheet.judge(
    models,
    [
      contrasts.difference(by_name[claim.first], by_name[claim.second])
      for claim in claims
    ],
  )
  return [
    (claim, answer.judgement)
    for claim, answer in zip(claims, answers, strict=True)
    if answer is not None
  ]


def _claims_section(
  judged: _Judged, models: contrasts.Models, prefix: str, out: pathlib.Path
) -> list[str]:
  if not judged:
    return []
  found = [judgement.verdict for _, judgement in judged]
  counts = ', '.join(f'{found.count(word)} {word}' for word in Verdict)
  file = f'{prefix}claims.png'
  figures.draw_claims(judged, out / file)
  return [
    '### The claims',
    'Differences in test error, the first minus the second: below zero is what'
    ' the paper claims, but for "very close". "implied" is what the paper does'
    ' not say, and what must hold if the loss is the reason for its results.',
    f'Of {len(judged)} differences: **{counts}**.',
    tables.claims_table(judged),
    f'![The claims, with simultaneous 95 % intervals]({file})',
    _residuals(models),
  ]


def _residuals(models: contrasts.Models) -> str:
  """What is known of the one residual of each data set."""
  lines = []
  for dataset, design in models.designs.items():
    spreads = design.spreads()
    if not design.freedom:
      continue
    low, high = (pick(spreads, key=spreads.__getitem__) for pick in (min, max))
    lines.append(
      f'- {paper.DATASETS[dataset]}: the residual spread of {len(spreads)} arms'
      f' is {design.spread:.2f} points, with {design.freedom} degrees of'
      f' freedom; arm by arm from {spreads[low]:.2f} ({low}) to'
      f' {spreads[high]:.2f} ({high}).'
    )
  return '\n'.join(lines)


_ON_THE_LOSS = {
  Verdict.BETTER: 'To choose by the loss is better than to choose by a coin.',
  Verdict.WORSE: 'To choose by the loss is worse than to choose by a coin.',
  Verdict.EQUIVALENT: (
    'To choose by the loss or by a coin is equivalent within {margin:.2f}'
    ' points.'
  ),
  Verdict.UNDECIDED: ('Whether the loss adds anything to a coin is undecided.'),
}


def _in_short(by_name: dict[str, Arm], judged: _Judged) -> list[str]:
  """A sentence or two on LCAM's final run for each data set."""
  sentences = []
  for dataset, name in paper.DATASETS.items():
    lcam = f'figure4-{dataset}-lcam'
    of_lcam = [(c, found) for c, found in judged if c.first == lcam]
    if not of_lcam:
      continue
    error = statistics.describe(list(by_name[lcam].read_off_errors().values()))
    against = '; '.join(
      f'{claim.other} {judgement.estimate.difference:+.2f}'
      f' ({tables.show_interval(judgement)}: {tables.show_verdict(judgement)})'
      for claim, judgement in of_lcam
    )
    on_the_loss = [
      _ON_THE_LOSS[judgement.verdict].format(margin=judgement.estimate.margin)
      for claim, judgement in of_lcam
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
    safe.markdown(
      '{} x {} with jax {}'.format(
        run.config['device_count'],
        run.config['device_kind'],
        run.config['versions'].get('jax'),
      )
    )
    for run in runs
    if run.config.keys() >= {'versions', 'device_count', 'device_kind'}
  }
  return f'{len(runs)} runs on {", ".join(sorted(machines)) or "unknown"}'

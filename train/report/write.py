"""Writes the report on a set of runs: a Markdown file and its figures."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import itertools
import pathlib
import textwrap
from typing import Any

from train import errors
from train import files
from train import pictures
from train import records
from train import safe
from train import statistics
from train import studies
from train.experiments import Experiment
from train.experiments import Scale
from train.records import Arm
from train.report import contrasts
from train.report import figures
from train.report import grid
from train.report import paper
from train.report import preregistered
from train.report import tables


@dataclasses.dataclass
class _Sheet:
  """State that the sections of a report share."""

  out: pathlib.Path
  relative_margin: float
  judged: list[contrasts.Contrast] = dataclasses.field(default_factory=list)
  """All contrasts so far, in the order of the report."""

  def judge(
    self, models: contrasts.Models, family: Sequence[contrasts.Question]
  ) -> list[str]:
    """Answers a family of the user's questions with verdicts, as a table."""
    found = [answer for answer in models.judge(family) if answer is not None]
    self.judged += found
    if not found:
      return []
    return [tables.contrasts_table([(a.name, a.judgement) for a in found])]

  def explore(
    self, models: contrasts.Models, family: Sequence[contrasts.Question]
  ) -> list[contrasts.Contrast | None]:
    """Answers exploratory questions, without verdicts."""
    answers = [
      answer and dataclasses.replace(answer, instead=contrasts.EXPLORATORY)
      for answer in models.judge(family)
    ]
    self.judged += [answer for answer in answers if answer is not None]
    return answers

  def explored(
    self, models: contrasts.Models, family: Sequence[contrasts.Question]
  ) -> list[str]:
    """The table of :meth:`explore`; empty if no question has an answer."""
    answers = self.explore(models, family)
    found = [(a.name, a.judgement) for a in answers if a is not None]
    return [tables.exploratory_table(found)] if found else []


def write(
  directories: Iterable[pathlib.Path],
  out: pathlib.Path,
  name: str = 'report.md',
  margin: float = 100 * statistics.RELATIVE_MARGIN,
) -> str:
  """Writes the report, its figures, and report.json.

  Args:
    directories: Directories that contain the runs, at any depth.
    out: Output folder, created if absent.
    name: Name of the Markdown file.
    margin: Margin of equivalence, in percent of the error of the control.

  Returns:
    The text of the report.

  Raises:
    UsageError: If there is no finished run and no study, ``out`` cannot be
      written, or ``margin`` is out of range.
  """
  return write_found(records.find(directories), out, name, margin)


def write_found(
  found: records.Found,
  out: pathlib.Path,
  name: str = 'report.md',
  margin: float = 100 * statistics.RELATIVE_MARGIN,
) -> str:
  """Writes the report on the result of :func:`train.records.find`.

  Records that were left out are listed at the top of the report. Studies that
  cannot be drawn are added to them.

  Args:
    found: The records.
    out: Output folder, created if absent.
    name: Name of the Markdown file.
    margin: Margin of equivalence, in percent of the error of the control.

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
      'There is no finished run, which a report requires.'
    )
  sheet = _Sheet(out, margin / 100)
  try:
    out.mkdir(parents=True, exist_ok=True)
    studies_of = _Studies(found, out)
    answers = _answers(arms)
    sheet.judged += [c for a in answers for c in a.contrasts.values()]
    paragraphs = [
      *studies_of.section(_OF_THE_PHASE, '## The phase: weights or batch?'),
    ]
    appendix: list[str] = []
    of_the_paper: set[str] = set()
    for scale in paper.SCALES:
      own = _Scale(scale, arms, sheet, answers)
      paragraphs += own.figures_section()
      appendix += own.appendix()
      of_the_paper |= own.shown
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
    explanations = [kind for kind in studies.STUDIES if kind != _OF_THE_PHASE]
    paragraphs += studies_of.section(
      explanations, "## The paper's explanations", _QUICK_AND_SLOW
    )
    if appendix:
      paragraphs += ['## Appendix: all arms', _APPENDIX, *appendix]
    if not paragraphs:
      raise errors.UsageError(f'No record can be shown. {found.left_out[0]}')
    has_phases = bool(found.studies) or any(arm.has_phases for arm in arms)
    paragraphs = [
      '# Report',
      *_told(found),
      *_unfinished(arms),
      *_preregistered_section(answers, out),
      *(['## Terms', _HORIZONTAL] if has_phases and not answers else []),
      *paragraphs,
      _how_to_read(answers, bool(appendix or grids), others, margin),
    ]
    text = '\n\n'.join(paragraphs) + '\n'
    files.replace_text(out / 'report.json', contrasts.to_json(sheet.judged))
    files.replace_text(out / name, text)
  except OSError as error:
    raise errors.UsageError(
      f'--out {out} cannot be written: {error.strerror}.'
    ) from error
  return text


_HORIZONTAL = """\
A step is *horizontal* if the loss of the previous step is at or below the mean
of its epoch so far, else *vertical*. LCAM uses a separate momentum for each
phase. A *random control* ("coin" in the names of arms) uses the same two
momenta in the same shares of steps, but chooses between them at random,
independent of the loss."""

_QUICK_AND_SLOW = """\
The paper divides the weights of a network into quick ones, W_Q, which oscillate
across a valley of the loss, and slow ones, W_S, which drift along it. It says
that moving one group pulls the other. It calls a data set horizontal or
vertical after the phase that should have the larger momentum, and neutral if
neither should.

The claims of the simulation are judged as one family, those of each set of
trained networks as another, and the differences of all probes as one more. A
claim is found (*as the paper says*), or *the opposite* is found; there is *no
difference* if the whole interval is inside the margin that the sentence states;
otherwise it is *undecided*. Traction requires that a simulated difference is
larger than without coupling."""

_APPENDIX = """\
This appendix is exploratory: it shows differences and intervals, and no
verdicts. The differences in one table are a family with simultaneous intervals.
The interval of an arm is that of its own runs only; for three runs or fewer,
all values are shown instead. "test error %" is that of the reported epoch, and
"final" that of the last epoch. "best epoch" is the lowest test error of any
epoch, which is selected on the test set and therefore biased."""


def _how_to_read(
  answers: Sequence[preregistered.Answers],
  has_explored: bool,
  others: Sequence[Arm],
  margin: float,
) -> str:
  """The last section, which explains only what the report contains."""
  said = [
    'Runs with the same seed share their initialization, the order of their'
    ' images and their crops in every arm. All arms of a data set and scale are'
    ' fitted together as arm + seed with one residual. "points" is the fitted'
    ' difference in percentage points; for two arms with the same seeds it is'
    ' the mean over their pairs of runs.',
    'Differences that are judged or shown together are a family. p is adjusted'
    " by Holm's method: in at most one of twenty cases, a family contains a"
    ' false difference. "interval" is adjusted by'
    " Bonferroni's method: in nineteen of twenty cases, all intervals of a"
    ' family contain their true differences. (If several differences are found,'
    ' the interval of one of them may just include zero.)',
    'The verdict applies to the first arm: *better* or *worse* if p is below'
    ' 0.05; *equivalent* if the whole interval is inside the margin; otherwise'
    ' *undecided*, which does not mean *equivalent*. If a difference is found'
    ' and its whole interval is inside the margin, the verdict says so.',
  ]
  if answers:
    said.append(
      'The margin of the preregistered questions is'
      f' {100 * statistics.RELATIVE_MARGIN:g} % of the error of the control, or'
      ' of its accuracy if that is smaller. Seeds, arms and questions are those'
      ' of [the preregistration](PREREGISTRATION.md); only seeds that all five'
      ' arms have are used.'
    )
  if others:
    said.append(
      f'The margin for your own arms is {margin:g} % of the error of the second'
      ' arm, or of its accuracy if that is smaller. "detectable" is the'
      ' true difference that this test, in this family, finds with a'
      ' probability of 80 %. "final" is the test error after the last epoch,'
      ' "95 % interval" that of the runs of the arm only, and "best epoch" the'
      ' lowest test error of any epoch, which is selected on the test set and'
      ' therefore biased.'
    )
  if has_explored:
    said.append(
      'Exploratory differences have no verdict, because the questions were not'
      ' asked before the results were seen.'
    )
  said.append('[report.json](report.json) contains the differences as JSON.')
  lines = '\n'.join(
    textwrap.fill(
      f'- {sentence}', 80, subsequent_indent='  ', break_on_hyphens=False
    )
    for sentence in said
  )
  return f'## How to read this\n\n{lines}'


def _answers(arms: Sequence[Arm]) -> list[preregistered.Answers]:
  """The answers of each stage that has runs, the deciding stage first."""
  stages = sorted(preregistered.STAGES, key=lambda stage: not stage.decides)
  found = [preregistered.answer(stage, arms) for stage in stages]
  return [answers for answers in found if answers is not None]


def _preregistered_section(
  answers: Sequence[preregistered.Answers], out: pathlib.Path
) -> list[str]:
  """The figure, tables and conclusion of the preregistered questions."""
  if not answers:
    return []
  file = 'preregistered.png'
  figures.draw_preregistered(answers, out / file)
  questions = ' '.join(
    f'**{question.name}**: {question.asked}'
    for question in preregistered.QUESTIONS
  )
  notes = [note for a in answers for note in preregistered.notes(a)]
  complete = [of_stage for of_stage in answers if of_stage.is_complete]
  waiting = (
    ' Before all planned seeds of a stage are complete, this section reports'
    ' only their number and the residual standard deviation of the first three.'
    if len(complete) < len(preregistered.STAGES)
    else ''
  )
  return [
    '## Preregistered questions',
    f'![The six contrasts with simultaneous 95 % intervals]({file})',
    *map(tables.preregistered_table, answers),
    preregistered.conclusion(answers),
    ' '.join(_HORIZONTAL.split())
    + f' {preregistered.momenta(answers[0].stage.scale)}',
    f'{questions} P2 compares LCAM with the mean error of two controls that'
    ' ignore the loss: a random control with the share of horizontal steps that'
    ' LCAM had in each epoch (coin-by-epoch), and a fixed momentum, the mean of'
    ' that of LCAM (time-average). "detectable" is the true difference that is'
    f' found with a probability of 80 %.{waiting}',
    '\n'.join(f'- {note}' for note in notes),
    *(
      paragraph
      for of_stage in complete
      for said in [preregistered.on_the_phase(of_stage)]
      if said is not None
      for paragraph in (said, tables.arms_of_stage_table(of_stage))
    ),
  ]


def _told(found: records.Found) -> list[str]:
  """Notes on the records, for the top of the report."""
  paragraphs = []
  if found.left_out:
    count = len(found.left_out)
    paragraphs += [
      f'**{count} {"records are" if count > 1 else "record is"} left out:**',
      '\n'.join(f'- {safe.markdown(sentence)}' for sentence in found.left_out),
    ]
  return [*paragraphs, *map(safe.markdown, found.notes)]


_UNFIT = (ArithmeticError, AssertionError, LookupError, TypeError, ValueError)

# The study with a separate section.
_OF_THE_PHASE = 'batches'


class _Studies:
  """The studies of a report.

  Args:
    found: The records. Studies that cannot be drawn are added to ``left_out``.
    out: Output folder of the figures.
  """

  def __init__(self, found: records.Found, out: pathlib.Path):
    self._found = found
    self._out = out
    self._taken: set[str] = set()

  def section(
    self, kinds: str | Sequence[str], heading: str, intro: str | None = None
  ) -> list[str]:
    """The paragraphs on some kinds of studies; empty if there are none."""
    of_kinds = [kinds] if isinstance(kinds, str) else kinds
    fit: list[records.Study] = []
    for study in self._found.studies:
      if study.kind in of_kinds:
        with self._leaving_out(study):
          entry = studies.STUDIES[study.kind]
          module = entry.load()
          for show in (
            module.title, module.summary, module.picture, module.sentences,
          ):  # fmt: skip
            show(study.record)
          entry.overview([study.record])
          # A record that is left out belongs to no family.
          fit.append(study)
    drawn: list[tuple[records.Study, list[str]]] = []
    for study in fit:
      beside = [
        other.record
        for other in fit
        if other.kind == study.kind and other is not study
      ]
      with self._leaving_out(study):
        paragraphs = _study_section(study, beside, self._out, self._taken)
        drawn.append((study, paragraphs))
    if not drawn:
      return []
    of_all: list[str] = []
    for kind in dict.fromkeys(study.kind for study, _ in drawn):
      own = [(study, rest) for study, rest in drawn if study.kind == kind]
      records_of_kind = [study.record for study, _ in own]
      of_all.append(studies.STUDIES[kind].overview(records_of_kind))
      of_all += itertools.chain.from_iterable(rest for _, rest in own)
    return [heading, *filter(None, [intro, *of_all])]

  @contextlib.contextmanager
  def _leaving_out(self, study: records.Study) -> Iterator[None]:
    """Leaves out a study whose record does not fit."""
    try:
      yield
    # Only the study itself knows what else its record must satisfy.
    except _UNFIT as error:
      reason = ' '.join(str(error).split()) or 'its figures do not fit'
      self._found.left_out.append(
        f'{study.path} cannot be drawn: {type(error).__name__}, {reason}.'
      )


def _study_section(
  study: records.Study,
  beside: Sequence[dict[str, Any]],
  out: pathlib.Path,
  taken: set[str],
) -> list[str]:
  """The paragraphs on a study. Draws its figure.

  Args:
    study: The study.
    beside: The other records of its kind in the report.
    out: Output folder of the figure.
    taken: Names of existing figures. The name of this one is added.
  """
  module, record = studies.STUDIES[study.kind].load(), study.record
  stem = picture = safe.file_name(module.picture(record))
  for i in itertools.count(2):
    if picture not in taken:
      break
    picture = f'{stem}-{i}'
  taken.add(picture)
  module.draw(record, out / f'{picture}.png', beside)
  title = safe.markdown(module.title(record))
  return [
    f'### {title}',
    module.summary(record),
    '\n'.join(
      f'- {safe.markdown(sentence)}'
      for sentence in module.sentences(record, beside)
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
  return [f'Runs without results: {"; ".join(listed)}.'] if listed else []


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
    *sheet.judge(models, contrasts.pairs(arms)),
    '![Curves of all arms](curves.png)',
  ]


def _grid_section(of_grid: grid.Grid, sheet: _Sheet, picture: str) -> list[str]:
  cells = of_grid.cells
  title = f'{of_grid.is_of} with {len(cells)} pairs of momenta'
  figures.draw_heat_map(cells, sheet.out / picture, title)
  models = contrasts.Models(
    of_grid.is_of, cells.values(), sheet.relative_margin, Arm.final_errors
  )
  counts = sorted({len(arm.finished) for arm in cells.values()})
  seeds = ' to '.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))
  return [
    f'## {safe.markdown(title)}',
    f'{_networks(list(cells.values()))}: {_machines(cells.values())}, n ='
    f' {seeds} seeds per pair. If both momenta are equal, the momentum is'
    ' fixed. The lowest of so many errors is partly low by chance, and the test'
    ' set must not select: the table averages over the pairs instead, seed by'
    ' seed.',
    *sheet.explored(models, grid.questions(of_grid)),
    f'![Final test error by horizontal and vertical momentum]({picture})',
  ]


def _phases_section(arms: Sequence[Arm], out: pathlib.Path) -> list[str]:
  """Shows one run only. Every run directory has its own figure."""
  for arm in arms:
    for run in arm.finished:
      steps = run.steps  # Reads the file.
      if not any(row['horizontal'] for row in steps):
        continue
      title = f'{arm.name}, seed {run.seed}'
      pictures.draw_phases(steps, run.config, out / 'phases.png', title)
      return [
        '## Loss and running mean',
        f'The steps of one run, {safe.markdown(title)}. If a loss is at or'
        ' below the running mean, which is reset at the end of each epoch, the'
        ' next step uses the horizontal momentum.',
        '![Losses against their running mean, by phase](phases.png)',
      ]
  return []


class _Scale:
  """The experiments of the paper at one scale.

  Args:
    scale: The scale.
    arms: All arms.
    sheet: The report.
    answers: The preregistered questions, which are not asked again.
  """

  def __init__(
    self,
    scale: Scale,
    arms: Iterable[Arm],
    sheet: _Sheet,
    answers: Sequence[preregistered.Answers],
  ):
    self._scale = scale
    self._sheet = sheet
    families = list(paper.families(scale))
    # In the order of the families, each once.
    members = dict.fromkeys(
      e.name for family in families for e in family.members
    )
    there = {arm.experiment.name: arm for arm in arms if arm.experiment}
    self._arms = {name: there[name] for name in members if name in there}
    self._families = families
    self._models = contrasts.Models(
      scale.name, self._arms.values(), sheet.relative_margin
    )
    self._asked = {
      frozenset(experiment.name for experiment in pair)
      for of_stage in answers
      if of_stage.stage.scale is scale
      for pair in preregistered.pairs(scale)
    }

  @property
  def shown(self) -> set[str]:
    """Names of the arms that belong here."""
    return {arm.name for arm in self._arms.values()}

  def _of(self, members: Iterable[Experiment]) -> list[Arm]:
    return [self._arms[e.name] for e in members if e.name in self._arms]

  def figures_section(self) -> list[str]:
    """The curves as in the figures of the paper."""
    prefix, out = self._scale.prefix, self._sheet.out
    panels: dict[str, dict[str, figures.Curves]] = {}
    shares: dict[str, list[Arm]] = {}
    for family, against in paper.figures(self._scale):
      arms = [arm for arm in self._of(family.members) if arm.finished]
      if not arms:
        continue
      control = [arm for arm in self._of([against]) if arm.finished]
      panels.setdefault(against.section, {})[family.title] = figures.Curves(
        arms,
        control[0] if control else None,
        frozenset(
          arm.name
          for arm in arms
          if frozenset((arm.name, against.name)) in self._asked
        ),
      )
      if any(arm.has_phases for arm in arms):
        shares[family.title] = [arm for arm in arms if arm.has_phases]
    if not panels:
      return []
    paragraphs = [
      f'## The figures of the paper at {self._scale.title}',
      f'{_networks(list(self._arms.values()))}:'
      f' {_machines(self._arms.values())}, the same as in the appendix. A curve'
      ' is the mean of the control plus the mean difference from it over the n'
      ' seeds that both have, or, where the legend says so, the mean of its own'
      ' seeds. Exploratory: no verdicts. Preregistered differences are not'
      ' repeated.',
    ]
    for section, of_section in panels.items():
      file = f'{prefix}{section}.png'
      figures.draw_errors(of_section, out / file)
      paragraphs.append(f'![{"; ".join(of_section)}]({file})')
    if shares:
      file = f'{prefix}horizontal-fraction.png'
      figures.draw_shares(shares, out / file)
      paragraphs.append(f'![The share of horizontal steps]({file})')
    return paragraphs

  def appendix(self) -> list[str]:
    """The tables of all arms."""
    if not any(arm.finished for arm in self._arms.values()):
      return []
    prefix, out = self._scale.prefix, self._sheet.out
    panels = {
      name: arms
      for dataset, name in paper.DATASETS.items()
      for arms in [
        [
          arm
          for arm in self._arms.values()
          if arm.dataset == dataset and arm.finished
        ]
      ]
      if arms
    }
    file = f'{prefix}arms.png'
    figures.draw_points(panels, out / file)
    paragraphs = [
      f'### At {self._scale.title}',
      paper.SCALES[self._scale],
      f'![Test error of every arm, seed by seed]({file})',
      *self._claims(),
      _residuals(self._models),
    ]
    shown: set[str] = set()
    for family in self._families:
      arms = self._of(family.members)
      # A family without new arms shows nothing new.
      if not {arm.name for arm in arms} - shown:
        continue
      shown |= {arm.name for arm in arms}
      paragraphs += [f'#### {family.title}', tables.paper_errors_table(arms)]
      paragraphs += self._sheet.explored(
        self._models, self._new_questions(family, arms)
      )
    if any(paper.published(arm.experiment) for arm in self._arms.values()):
      paragraphs.append(paper.PUBLISHED)
    return paragraphs

  def _claims(self) -> list[str]:
    claims = [
      claim
      for claim in paper.claims(self._scale)
      if {claim.first.name, claim.second.name} <= self._arms.keys()
    ]
    answers = self._sheet.explore(
      self._models,
      [self._difference(claim.first, claim.second) for claim in claims],
    )
    self._asked |= {
      frozenset((claim.first.name, claim.second.name)) for claim in claims
    }
    found = [
      (claim, answer.judgement)
      for claim, answer in zip(claims, answers, strict=True)
      if answer is not None
    ]
    if not found:
      return []
    file = f'{self._scale.prefix}claims.png'
    figures.draw_claims(found, self._sheet.out / file)
    return [
      f'#### Claims of the paper at {self._scale.title}',
      'Differences are first minus second: the paper claims a value below zero,'
      ' except for "very close". "implied" marks what the paper does not state,'
      ' but what must hold if the loss is the reason for its results.'
      ' Preregistered questions are not repeated here.',
      tables.claims_table(found),
      f'![The claims, with simultaneous 95 % intervals]({file})',
    ]

  def _difference(
    self, first: Experiment, second: Experiment
  ) -> contrasts.Question:
    return contrasts.difference(self._arms[first.name], self._arms[second.name])

  def _new_questions(
    self, family: paper.Family, arms: Sequence[Arm]
  ) -> list[contrasts.Question]:
    """The differences in a family that are in no other table."""
    there = [arm.experiment for arm in arms if arm.experiment is not None]
    pairs = (
      [(family.against, other) for other in there if other != family.against]
      if family.against in there
      else list(itertools.combinations(there, 2))
    )
    new = [
      pair
      for pair in pairs
      if frozenset(e.name for e in pair) not in self._asked
    ]
    self._asked |= {frozenset(e.name for e in pair) for pair in new}
    return [self._difference(*pair) for pair in new]


def _residuals(models: contrasts.Models) -> str:
  """The residual standard deviation of each data set."""
  lines = []
  for dataset, design in models.designs.items():
    spreads = design.spreads()
    if not design.freedom:
      continue
    low, high = (pick(spreads, key=spreads.__getitem__) for pick in (min, max))
    lines.append(
      f'- {paper.DATASETS[dataset]}: the residual standard deviation of'
      f' {len(spreads)} arms is {design.spread:.2f} points, with'
      f' {design.freedom} degrees of freedom; for single arms it ranges from'
      f' {spreads[low]:.2f} ({low}) to {spreads[high]:.2f} ({high}).'
    )
  return '\n'.join(lines)


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
        _device(run.config),
        run.config['versions'].get('jax'),
      )
    )
    for run in runs
    if run.config.keys() >= {'versions', 'device_count', 'device_kind'}
  }
  return f'{len(runs)} runs on {", ".join(sorted(machines)) or "unknown"}'


def _device(config: Mapping[str, Any]) -> str:
  """The kind of device; of a CPU the processor, which older runs lack."""
  if config.get('platform') == 'cpu':
    return config.get('processor', config['device_kind'])
  return config['device_kind']

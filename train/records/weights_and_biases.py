"""The curves of a run on Weights & Biases, if ``--wandb`` asks for them.

A failure here never stops the run. wandb is imported only if a project is
given.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import secrets
from types import ModuleType
from typing import Any

from train import errors
from train import files
from train.devices import processes
from train.records import metrics
from train.records import run_directory

# Seconds that a finished run waits for a lost network.
_MOST_SECONDS_TO_FINISH = 60


def check(project: str | None) -> None:
  """Raises UsageError if the project name is invalid or wandb is missing."""
  if project is None:
    return
  if not project.strip():
    raise errors.UsageError(
      f'--wandb must be the name of a project, got {project!r}.'
    )
  try:
    _import()
  except ImportError as error:
    raise errors.UsageError(
      f'--wandb {project} needs Weights & Biases, which is not installed'
      f' ({error}): pip install wandb'
    ) from error


def _import() -> ModuleType:
  # Not find_spec: it would find the directory ./wandb, where wandb stores its
  # files by default.
  import wandb
  from wandb import init  # noqa: F401

  return wandb


class Runs:
  """The runs of one program, each a run on Weights & Biases.

  A context manager: an exception closes the runs as incomplete. Only the first
  process sends data.
  """

  def __init__(
    self,
    project: str | None,
    directories: Sequence[run_directory.RunDirectory],
    logs: Sequence[metrics.MetricsLog],
    say: Callable[[str], None],
  ):
    """Describes the runs; entering the context opens them.

    Args:
      project: The project; ``None`` sends nothing.
      directories: The claimed directories of the runs.
      logs: The logs of the runs. Existing rows that were not sent are sent
        first.
      say: Called with the address of each run and with errors.
    """
    self._project = project if processes.is_first() else None
    self._directories = directories
    self._logs = logs
    self._say = say
    self._runs: dict[int, _Run] = {}

  def __enter__(self) -> 'Runs':
    if self._project is None:
      return self
    for i, directory in enumerate(self._directories):
      with self._reporting_errors(i):
        self._runs[i] = _Run(self._project, directory)
        self._say(f'{directory.path}: {self._runs[i].where}')
      self.log(i)
    return self

  def log(self, i: int) -> None:
    """Sends the rows of the log of a run that were not sent yet."""
    if i in self._runs:
      with self._reporting_errors(i):
        self._runs[i].log(self._logs[i].rows)

  def finish(self, i: int, summary: Mapping[str, Any]) -> None:
    """Closes a run with the contents of its summary.json."""
    if i in self._runs:
      with self._reporting_errors(i):
        self._runs.pop(i).finish(summary)

  def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
    if kind is not None:
      for i in list(self._runs):
        self.finish(i, {'status': 'incomplete'})

  @contextlib.contextmanager
  def _reporting_errors(self, i: int) -> Iterator[None]:
    try:
      yield
    except Exception as error:  # Of any kind: none may stop the run.
      self._runs.pop(i, None)
      reason = ' '.join(str(error).split()) or type(error).__name__
      self._say(
        f'{self._directories[i].path}: Weights & Biases failed, the run'
        f' continues without it: {reason}'
      )


class _Run:
  """One run; wandb.json in its directory identifies it and counts epochs."""

  def __init__(self, project: str, directory: run_directory.RunDirectory):
    wandb = _import()
    settings = directory.read_config()
    self._path = directory.path / 'wandb.json'
    self._record: dict[str, Any] = {}
    if self._path.exists():
      self._record = files.read_json(self._path)
    if self._record.get('project') != project:
      self._record = {
        'project': project,
        'id': secrets.token_hex(8),
        'epochs_sent': 0,
      }
    files.write_json(self._path, self._record)
    name = settings['experiment'] or settings['dataset']
    self._run = wandb.init(
      project=project,
      id=self._record['id'],
      # Offline this also works, with a warning that the server was not asked.
      resume='allow',
      group=settings['experiment'],
      name=f'{name}-seed-{settings["seed"]}',
      config=settings,
      dir=directory.path,
      # Several runs are open at once.
      reinit='create_new',
      # Sends only settings and curves, and prints nothing into the progress
      # line.
      settings=wandb.Settings(
        silent=True,
        console='off',
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        finish_timeout=_MOST_SECONDS_TO_FINISH,
        finish_timeout_raises=True,
      ),
    )
    if self._run.offline:
      self.where = f'wandb sync {self._run.settings.sync_dir}'
    else:
      self.where = self._run.url
      # The server's next step is one after the last epoch that arrived.
      self._record['epochs_sent'] = max(0, self._run.step - 1)

  def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows[self._record['epochs_sent'] :]:
      # Written before sending, so that a kill in between sends nothing twice.
      self._record['epochs_sent'] = row['epoch']
      files.write_json(self._path, self._record)
      curves = {
        name: row[name] for name in metrics.CURVES if row.get(name) is not None
      }
      self._run.log(curves, step=row['epoch'])

  def finish(self, summary: Mapping[str, Any]) -> None:
    self._run.summary.update(summary)
    self._run.finish(exit_code=0 if summary['status'] == 'done' else 1)

"""The files of one run: who may write here, what was set, how it ended.

config.json     every setting, the seeds, versions, device, git commit
metrics.jsonl   a row an epoch
steps.jsonl     a row an epoch: the loss and the momentum of each of its steps
summary.json    how it ended
checkpoints/    the last states
run.lock        held by the process that trains, owner.json says which
tensorboard/    the same figures for TensorBoard
wandb.json      which run on Weights & Biases this is, if --wandb was given
wandb/          what wandb keeps of it
curves.png      the picture
phases.png      losses against their running mean, of an optimizer with phases
"""

from collections.abc import Iterator, Sequence
import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import subprocess
import tempfile
from typing import Any

import jax
import numpy as np

from train import config as config_lib
from train import errors
from train import processes

_PACKAGES = (
  'jax',
  'jaxlib',
  'optax',
  'flax',
  'numpy',
  'orbax-checkpoint',
  'tensorflow-datasets',
  'scikit-learn',
)


class RunDirectory:
  """Reads and writes the files of one run, in the first process alone."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    self.checkpoints = path / 'checkpoints'
    self.tensorboard = path / 'tensorboard'
    self.metrics = path / 'metrics.jsonl'
    self.steps = path / 'steps.jsonl'
    self.picture = path / 'curves.png'
    self.phases = path / 'phases.png'
    self._config = path / 'config.json'
    self._unfinished_config = _unfinished(self._config)
    self._summary = path / 'summary.json'

  def claim(
    self,
    given: config_lib.Config,
    resolved: config_lib.Config,
    devices: Sequence[jax.Device] | None = None,
    **facts: Any,
  ) -> None:
    """Takes the directory for this run, whether new or begun before.

    Args:
      given: The configuration as the command line gave it.
      resolved: The same, resolved.
      devices: Those of the run. Default: all.
      **facts: What else config.json shall say.

    Raises:
      UsageError: It holds something else, or cannot be written.
    """
    self.check_writable()
    if self._config.exists():
      different = config_lib.differences(given, resolved, self.read_config())
      if different:
        raise errors.UsageError(
          f'--run-dir {self.path} holds another run; this one has'
          f' {", ".join(different)}. Choose another directory.'
        )
      return
    # A run that was killed as it began may have left that one file.
    if self.path.exists() and {*self.path.iterdir()} - {
      self._unfinished_config
    }:
      raise errors.UsageError(
        f'--run-dir {self.path} is not empty and holds no run. Choose another'
        ' directory.'
      )
    with writing(self.path):
      self.path.mkdir(parents=True, exist_ok=True)
    write_json(
      self._config,
      {
        **facts,
        **config_lib.to_json(resolved),
        **environment(devices),
      },
    )

  def check_writable(self) -> None:
    """Raises UsageError if it cannot be written; makes nothing."""
    check_writable('--run-dir', self.path)

  def read_config(self) -> dict[str, Any]:
    """What config.json says, once the directory is claimed."""
    return read_json(self._config)

  def read_summary(self) -> dict[str, Any] | None:
    """The summary, or ``None`` where there is none yet."""
    return read_json(self._summary) if self._summary.exists() else None

  def write_summary(self, summary: dict[str, Any]) -> None:
    if processes.is_first():
      write_json(self._summary, summary)


def check_writable(flag: str, directory: pathlib.Path) -> None:
  """Raises UsageError if there can be no such directory to write into.

  Makes nothing: what is to be found wrong later leaves no trace.

  Args:
    flag: Which the directory was given by.
    directory: It, or the first of its parents that exists, is tried.
  """
  place = directory.absolute()
  try:
    while not place.exists():
      place = place.parent
    if not place.is_dir():
      raise errors.UsageError(
        f'{flag} {directory} is not a directory.'
        if place == directory.absolute()
        else f'{flag} {directory} cannot be made: {place} is not a directory.'
      )
    with tempfile.TemporaryFile(dir=place):
      pass
  except OSError as error:
    raise errors.UsageError(
      f'{flag} {directory} cannot be written: {error.strerror}.'
    ) from error


def params_sha256(params: Any) -> str:
  """SHA-256 over the parameters' paths, shapes, dtypes and bytes."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree.leaves_with_path(params):
    array = np.asarray(jax.device_get(leaf))
    name = jax.tree_util.keystr(path)
    digest.update(f'{name} {array.shape} {array.dtype}\n'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file of a run directory, or raises UsageError."""
  try:
    content = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise errors.UsageError(f'{path} cannot be read: {error}.') from error
  if not isinstance(content, dict):
    raise errors.UsageError(f'{path} is not a JSON object.')
  return content


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
  """Raises RunError where the file cannot be written."""
  try:
    yield
  except OSError as error:
    raise errors.RunError(
      f'{path} cannot be written: {error.strerror}. Once it can be, the same'
      ' command goes on from the last checkpoint.'
    ) from error


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes a JSON file completely or not at all."""
  replace_text(
    path, json.dumps(finite(content), indent=2, allow_nan=False) + '\n'
  )


def replace_text(path: pathlib.Path, text: str) -> None:
  """Writes a file completely or not at all.

  Raises:
    RunError: It cannot be written. What was there before is intact.
  """
  unfinished = _unfinished(path)
  with writing(path):
    with unfinished.open('w') as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(unfinished, path)


def _unfinished(path: pathlib.Path) -> pathlib.Path:
  """Where the content of a file is until it is complete."""
  return path.with_suffix('.tmp')


def finite(content: dict[str, Any]) -> dict[str, Any]:
  """JSON has no NaN and no infinity: they become ``None``."""
  return {
    name: None
    if isinstance(value, float) and not math.isfinite(value)
    else value
    for name, value in content.items()
  }


def environment(
  devices: Sequence[jax.Device] | None = None,
) -> dict[str, Any]:
  """Versions, devices and commit: what belongs beside any measurement.

  Args:
    devices: Those that are used. Default: all.
  """
  devices = devices or jax.devices()
  device = devices[0]
  return {
    'versions': {
      'python': platform.python_version(),
      **{name: _version(name) for name in _PACKAGES},
    },
    'platform': device.platform,
    'device_kind': device.device_kind,
    'device_count': len(devices),
    'process_count': jax.process_count(),
    'git_commit': _git_commit(),
  }


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


def _git_commit() -> str | None:
  try:
    return subprocess.run(
      ['git', 'rev-parse', 'HEAD'],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=True,
      timeout=10,
    ).stdout.strip()
  except (OSError, subprocess.SubprocessError):
    return None

"""The files of one run: claims the directory, checks a resume, writes records.

config.json     every setting, the seeds, versions, device, git commit
metrics.jsonl   one row per epoch
steps.jsonl     one row per epoch: loss and momentum of each step
summary.json    the result
checkpoints/    the latest states
weights.safetensors  the trained network, for models.load
run.lock        the lock of the training process, which owner.json names
tensorboard/    the metrics for TensorBoard
wandb.json      the run on Weights & Biases, with --wandb
wandb/          the files of wandb
curves.png      the curves
phases.png      losses against their running mean, if there are phases
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax
import numpy as np

import models
import optax_lcam
import train
from train import config as config_lib
from train import errors
from train import files
from train.devices import jax_environment
from train.devices import processes
from train.devices import processor
from train.records import packed
from train.records import read
from train.records import schema
from train.records.run import Run
from train.records.schema import Summary

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


# Settings that affect the rounding of a run, besides the versions.
_ROUNDING = (
  'platform',
  'device_kind',
  'device_count',
  'process_count',
  'convolutions',
  'xla_flags',
)


class RunDirectory:
  """Reads and writes the files of one run, only in the first process."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    self.notes: list[str] = []
    """Fields in its files that this version does not know."""
    self.checkpoints = path / 'checkpoints'
    self.tensorboard = path / 'tensorboard'
    self.metrics = path / 'metrics.jsonl'
    self.steps = path / 'steps.jsonl'
    self.picture = path / 'curves.png'
    self.phases = path / 'phases.png'
    self.weights = path / 'weights.safetensors'
    self._config = path / 'config.json'
    self._unfinished_config = files.unfinished_path(self._config)
    self._summary = path / 'summary.json'

  def claim(
    self,
    given: config_lib.Config,
    resolved: config_lib.Resolved,
    devices: Sequence[jax.Device] | None = None,
    **facts: Any,
  ) -> None:
    """Claims the directory for a new or a resumed run.

    Args:
      given: The configuration from the command line.
      resolved: The resolved configuration.
      devices: The devices of the run. Default: all.
      **facts: Further fields of config.json.

    Raises:
      UsageError: If it contains something else, or cannot be written.
    """
    self.check_writable()
    if self._packed() is not None or os.path.lexists(self._config):
      saved = self.read_config()
      if saved.get('compute_dtype') == facts.get('compute_dtype'):
        # Given or detected: the arithmetic is the same.
        resolved = dataclasses.replace(resolved, dtype=saved['dtype'])
      different = config_lib.differences(given, resolved, saved)
      if different:
        raise errors.UsageError(
          f'--run-dir {self.path} holds another run; this one has'
          f' {", ".join(different)}. Choose another directory.'
        )
      return
    # A run that was killed at the start may have left only this file.
    if self.path.exists() and {*self.path.iterdir()} - {
      self._unfinished_config
    }:
      raise errors.UsageError(
        f'--run-dir {self.path} is not empty and holds no run. Choose another'
        ' directory.'
      )
    with files.writing(self.path):
      self.path.mkdir(parents=True, exist_ok=True)
    files.write_json(
      self._config,
      {
        **facts,
        **config_lib.to_json(resolved),
        **environment(devices),
      },
    )

  def check_resume(
    self, devices: Sequence[jax.Device] | None = None, **facts: Any
  ) -> list[str]:
    """Compares an unfinished run with the environment of its resume.

    Args:
      devices: The devices of the run. Default: all.
      **facts: As for :meth:`claim`.

    Returns:
      Differences that change the rounding of the run but not its meaning, one
      phrase each.

    Raises:
      UsageError: If the resumed run would not be the same run.
    """
    saved = self.read_config()
    unknown = sorted(saved.keys() - schema.CONFIG_FIELDS)
    if unknown:
      raise errors.UsageError(
        f'--run-dir {self.path} was started by another version: this one does'
        f' not know {", ".join(unknown)} in its config.json. Resume with that'
        ' version, or choose another directory.'
      )
    now = {**facts, **environment(devices)}

    def different(before: Any, after: Any) -> list[str]:
      return [
        f'{name} {before[name]} (now {after[name]})'
        for name in after
        if name in before and before[name] != after[name]
      ]

    same = {'compute_dtype': now['compute_dtype']}
    if saved['batch_norm'] == 'device':
      # Each device has its own statistics.
      same['device_count'] = now['device_count']
    decides = [
      *different(saved, same),
      *different(saved.get('jax_settings', {}), now['jax_settings']),
    ]
    if decides:
      raise errors.UsageError(
        f'--run-dir {self.path} was started with {", ".join(decides)}. Resume'
        ' in the same environment, or choose another directory.'
      )
    rounding = {name: now[name] for name in _ROUNDING}
    if now['platform'] == 'cpu':  # The host of a GPU or TPU does not matter.
      rounding |= {name: now[name] for name in ('processor', 'cpu_threads')}
    if saved['convolutions'] == 'auto':  # Not recorded before.
      del rounding['convolutions']
    is_other = saved.get('source_sha256', now['source_sha256'])
    return [
      *different(saved.get('versions', {}), now['versions']),
      *different(saved, rounding),
      *(['another source'] if is_other != now['source_sha256'] else []),
    ]

  def check_writable(self) -> None:
    """Raises UsageError if it cannot be written. Creates nothing."""
    files.check_writable('--run-dir', self.path)

  def read_config(self) -> dict[str, Any]:
    """The contents of config.json, after :meth:`claim`.

    For a finished run that was packed, the contents of the tables.

    Raises:
      UsageError: If it is damaged.
    """
    done = self._packed()
    if done is not None:
      return done.config
    return read.config(self.path, self.notes.append)

  def read_summary(self) -> Summary | None:
    """The summary, or ``None`` if there is none yet.

    For a finished run that was packed, the contents of the tables.

    Raises:
      UsageError: If it is damaged.
    """
    done = self._packed()
    if done is not None:
      return done.summary
    return read.summary(self.path, self.notes.append)

  def write_summary(self, summary: Mapping[str, Any]) -> None:
    if processes.is_first():
      files.write_json(self._summary, summary)

  def _packed(self) -> Run | None:
    """The packed run, if the run is finished and its directory is gone."""
    if self.path.exists():
      return None
    run = packed.find(self.path)
    return run if run is not None and run.is_done else None


def params_sha256(params: Any) -> str:
  """SHA-256 over the parameters' paths, shapes, dtypes and bytes."""
  digest = hashlib.sha256()
  for path, leaf in jax.tree.leaves_with_path(params):
    array = np.asarray(jax.device_get(leaf))
    name = jax.tree_util.keystr(path)
    digest.update(f'{name} {array.shape} {array.dtype}\n'.encode())
    digest.update(array.tobytes())
  return digest.hexdigest()


def environment(
  devices: Sequence[jax.Device] | None = None,
) -> dict[str, Any]:
  """Versions, devices and commit, to be recorded with every measurement.

  Args:
    devices: The devices in use. Default: all.
  """
  devices = devices or jax.devices()
  device = devices[0]
  return {
    **software(),
    'platform': device.platform,
    'device_kind': device.device_kind,
    'device_count': len(devices),
    'processor': processor.name(),
    'cpu_threads': processor.threads(),
    'process_count': jax.process_count(),
    'git_commit': _git_commit(),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
  }


def software() -> dict[str, Any]:
  """Everything that must be equal in all processes of a run."""
  return {
    'versions': {
      'python': platform.python_version(),
      **{name: _version(name) for name in _PACKAGES},
    },
    'source_sha256': source_sha256(),
    'jax_settings': jax_environment.in_force(),
  }


@functools.cache
def source_sha256() -> str:
  """A checksum of the source of the optimizer, the networks and the program.

  It must be equal in all processes of a run, with or without git.
  """
  digest = hashlib.sha256()
  for package in (optax_lcam, models, train):
    (root,) = package.__path__
    for path in sorted(pathlib.Path(root).rglob('*')):
      if path.suffix in ('.py', '.cc'):
        name = path.relative_to(root).as_posix()
        digest.update(f'{package.__name__}/{name}\n'.encode())
        digest.update(path.read_bytes())
  return digest.hexdigest()


def _version(package: str) -> str | None:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


@functools.cache
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

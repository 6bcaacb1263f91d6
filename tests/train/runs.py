"""A small run in this process, on one device by default."""

import contextlib
import dataclasses
import io
from unittest import mock

import jax
import rich.console

from train import config as config_lib
from train import loop
from train import pictures as pictures_lib

# 200 images in batches of 64: four steps per epoch, the last with 8 images. The
# network is the smallest, because tests of the loop do not depend on it.
CONFIG = config_lib.Config(
  model='mlp',
  epochs=3,
  batch_size=64,
  train_examples=200,
  eval_batch_size=360,
)


def one_device():
  return jax.devices()[:1]


def console():
  return rich.console.Console(file=io.StringIO(), width=1000)


def without_pictures():
  """Disables the figures of a run, which take longer than the run."""
  nothing = lambda *_: None
  return mock.patch.multiple(
    pictures_lib, draw_run=nothing, draw_phases=nothing
  )


def run(directory, config=CONFIG, *, pictures=False, options=None, **settings):
  """Starts or resumes a run.

  Args:
    directory: The run directory.
    config: The settings.
    pictures: Whether to draw the figures.
    options: Options of :func:`train.loop.run`.
    **settings: Replace those of ``config``.

  Returns:
    The summary, and the output.
  """
  shown = console()
  with contextlib.nullcontext() if pictures else without_pictures():
    summary = loop.run(
      dataclasses.replace(config, **settings),
      directory,
      **{'devices': one_device(), 'console': shown, **(options or {})},
    )
  return summary, shown.file.getvalue()

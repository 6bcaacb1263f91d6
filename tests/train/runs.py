"""A small run in this process, on one device unless a test says otherwise."""

import contextlib
import dataclasses
import io
from unittest import mock

import jax
import rich.console

from train import config as config_lib
from train import loop
from train import pictures as pictures_lib

# 200 images in batches of 64: four steps an epoch, the last of 8 images. The
# network is the smallest: it is the subject of no test of the loop.
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
  """Draws nothing at the end of a run: that takes longer than the run."""
  nothing = lambda *_: None
  return mock.patch.multiple(
    pictures_lib, draw_run=nothing, draw_phases=nothing
  )


def run(directory, config=CONFIG, *, pictures=False, options=None, **settings):
  """Makes a run, or goes on with it.

  Args:
    directory: Its run directory.
    config: Its settings.
    pictures: Whether it draws its curves.
    options: Of :func:`train.loop.run`.
    **settings: In place of those of ``config``.

  Returns:
    Its summary, and what it has shown.
  """
  shown = console()
  with contextlib.nullcontext() if pictures else without_pictures():
    summary = loop.run(
      dataclasses.replace(config, **settings),
      directory,
      **{'devices': one_device(), 'console': shown, **(options or {})},
    )
  return summary, shown.file.getvalue()

"""A small run in this process, on one device unless a test says otherwise."""

import dataclasses
import io

import jax
import rich.console

from train import config as config_lib
from train import loop

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


def run(directory, config=CONFIG, *, options=None, **settings):
  """Makes a run, or goes on with it.

  Args:
    directory: Its run directory.
    config: Its settings.
    options: Of :func:`train.loop.run`.
    **settings: In place of those of ``config``.

  Returns:
    Its summary, and what it has shown.
  """
  shown = console()
  summary = loop.run(
    dataclasses.replace(config, **settings),
    directory,
    **{'devices': one_device(), 'console': shown, **(options or {})},
  )
  return summary, shown.file.getvalue()

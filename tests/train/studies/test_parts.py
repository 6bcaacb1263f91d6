"""An interrupted study resumes: its record is that of an uninterrupted one."""

import dataclasses
import io
import signal

import numpy as np
import pytest
import rich.console

from tests.train import processes
from train import __main__ as program
from train import config as config_lib
from train import data
from train import experiments
from train.devices import interruption
from train.records import read
from train.studies import batches
from train.studies import configs
from train.studies import probe

_EPOCHS = 2


class _Killed(Exception):
  pass


class _Study:
  """A small study, which counts the networks that it trains."""

  def __init__(self, monkeypatch, module, train, measure):
    self.trained = 0
    self.dies_at = None
    self._measure = measure
    original = getattr(module, train)

    def counted(*arguments, **keywords):
      if self.trained == self.dies_at:
        raise _Killed
      self.trained += 1
      return original(*arguments, **keywords)

    monkeypatch.setattr(module, train, counted)

  def measure(self, **settings):
    """Its record without times, the number trained, and what it showed."""
    self.trained = 0
    shown = io.StringIO()
    record = self._measure(console=rich.console.Console(file=shown), **settings)
    for name in ('seconds', 'images_per_second'):
      record.pop(name, None)
    return record, self.trained, shown.getvalue()


@pytest.fixture
def of_batches(monkeypatch):
  images = data.load('digits', train_examples=170)
  config = config_lib.Config(
    model='mlp', train_examples=170, batch_size=16, epochs=5
  )
  experiment = dataclasses.replace(
    experiments.get('digits-lcam'), config=config, reads_off=4
  )
  monkeypatch.setattr(configs, 'of_batches', lambda *_: experiment)
  monkeypatch.setattr(data, 'load', lambda *_, **__: images)
  return _Study(
    monkeypatch,
    batches,
    '_train',
    lambda epochs=_EPOCHS, **settings: batches.measure(
      'digits', batch_sizes=(16,), epochs=epochs, **settings
    ),
  )


@pytest.fixture
def of_probe(monkeypatch):
  whole = probe._train

  def of_mlp(configs, *rest):
    return whole([dataclasses.replace(c, model='mlp') for c in configs], *rest)

  monkeypatch.setattr(probe, '_train', of_mlp)
  return _Study(
    monkeypatch,
    probe,
    '_train_group',
    lambda epochs=_EPOCHS, **settings: probe.measure(
      'digits',
      seeds=2,
      train_examples=64,
      validation_examples=30,
      epochs=epochs,
      **settings,
    ),
  )


@pytest.fixture(params=['batches', 'probe'])
def study(request):
  return request.getfixturevalue(f'of_{request.param}')


def test_a_killed_study_resumes_from_its_finished_networks(study, tmp_path):
  whole, networks, _ = study.measure()
  study.dies_at = 3
  with pytest.raises(_Killed):
    study.measure(parts=tmp_path / 'parts')
  study.dies_at = None
  resumed, trained, _ = study.measure(parts=tmp_path / 'parts')
  assert trained == networks - 3
  assert resumed == whole
  again, trained, _ = study.measure(parts=tmp_path / 'parts')
  assert trained == 0
  assert again == whole


def test_a_stopped_command_says_how_to_resume(
  of_probe, tmp_path, monkeypatch, capsys
):
  def stopped(*_, **__):
    raise interruption.Interrupted(signal.SIGTERM)  # As its handler does.

  monkeypatch.setattr(probe, '_train_group', stopped)
  out = tmp_path / 'probe'
  assert program.main(['probe', '--seeds', '2', '--out', str(out)]) == 143
  assert (
    'The same command resumes from the finished networks'
    in capsys.readouterr().err
  )
  assert not (out / 'probe.json').exists()


@pytest.mark.slow
def test_a_command_that_is_stopped_resumes(tmp_path):
  """As a real process, stopped when its first network is on disk."""
  out = tmp_path / 'probe'
  flags = (
    'probe', '--seeds', 2, '--epochs', 1, '--train-examples', 64,
    '--validation-examples', 30, '--out', out,
  )  # fmt: skip
  with processes.start(*flags) as process:
    for line in process.stderr:
      if 'run 2/8' in line:
        process.send_signal(signal.SIGTERM)
        break
    rest = process.stderr.read()
  assert process.returncode == 143
  assert 'The same command resumes from the finished networks' in rest
  assert not (out / 'probe.json').exists()
  left = {part.name for part in (out / 'parts').iterdir()}
  again = processes.train(*flags)
  assert again.returncode == 0, again.stderr
  shown = again.stderr.count('  loss ')
  assert shown == 8 - len(left)
  assert read.study(out / 'probe.json', 'probe')['seeds'] == [0, 1]
  # One for each network, complete.
  parts = {part.name for part in (out / 'parts').iterdir()}
  assert left < parts
  assert len(parts) == 8


def test_parts_of_other_settings_are_neither_read_nor_replaced(study, tmp_path):
  other, networks, _ = study.measure(parts=tmp_path)
  longer, trained, _ = study.measure(parts=tmp_path, epochs=_EPOCHS + 1)
  assert trained == networks
  assert longer != other
  again, trained, _ = study.measure(parts=tmp_path)
  assert trained == 0
  assert again == other


def test_a_damaged_part_is_measured_again(study, tmp_path):
  whole, *_ = study.measure(parts=tmp_path)
  for file in sorted(tmp_path.glob('*/*.npy'))[:1]:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
  again, trained, _ = study.measure(parts=tmp_path)
  assert trained == 1
  assert again == whole


def test_other_images_are_other_parts(of_batches, tmp_path, monkeypatch):
  _, networks, _ = of_batches.measure(parts=tmp_path)
  images = data.load()
  darker = dataclasses.replace(
    images,
    train=dataclasses.replace(
      images.train, images=images.train.images // np.uint8(2)
    ),
  )
  monkeypatch.setattr(data, 'load', lambda *_, **__: darker)
  _, trained, _ = of_batches.measure(parts=tmp_path)
  assert trained == networks


def test_the_time_left_counts_only_what_is_trained(of_batches, tmp_path):
  """A clock of one minute for each pass over the images."""
  clock = _Clock()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(batches.time, 'monotonic', clock)
    patch.setattr(batches.progress, 'LINE_SECONDS', 0.0)
    train = batches._train

    def timed(config, images, epochs, *, with_frozen, show):
      def after_epoch(epoch, loss):
        clock.seconds += 120 if with_frozen else 60
        show(epoch, loss)

      return train(
        config, images, epochs, with_frozen=with_frozen, show=after_epoch
      )

    patch.setattr(batches, '_train', timed)
    of_batches.dies_at = 2
    with pytest.raises(_Killed):
      of_batches.measure(parts=tmp_path)
    of_batches.dies_at = None
    _, _, shown = of_batches.measure(parts=tmp_path)
  lines = [line.split() for line in shown.splitlines()]
  assert [line[-2] for line in lines if 'left' in line] == [
    # Networks 3 to 6, with 4, 2, 4 and 2 passes.
    '10m00s', '8m00s', '7m00s', '6m00s', '4m00s', '2m00s', '1m00s', '0s',
  ]  # fmt: skip
  # The first two were read.
  assert ['left' in line for line in lines] == 2 * [False] + 8 * [True]


class _Clock:
  def __init__(self):
    self.seconds = 0.0

  def __call__(self):
    return self.seconds

"""Invalid command lines exit with code 2 and a message, and leave no files.

The message is that of tyro if it cannot parse a flag, and otherwise one
sentence.
"""

import contextlib
import dataclasses
import io
import re

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import pytest

from train import __main__ as program
from train import command_line
from train import config as config_lib
from train import experiments
from train import loop
from train import report
from train import studies
from train import sweep
from train.devices import jax_environment

# The command line, and the parts of its message.
_WRONG = [
  # Commands.
  ('rnu', ["'rnu'", "'run'"]),
  ('reprot runs', ["'reprot'", "'report'"]),
  (
    'sweep digits-lcam --grid vertical_momentum=1.5',
    ['--vertical-momentum', '[0, 1)', '1.5'],
  ),
  (
    'sweep digits-lcam --grid horizontal_momentum=0.9,0.9',
    ['--grid', 'distinct values', '0.9,0.9'],
  ),
  (
    'sweep digits-lcam --grid horizontal=0.9',
    ['--grid', "'horizontal'", "'horizontal_momentum'"],
  ),
  ('sweep digits-lcam --grid seed=0,1', ['--grid', "'seed'"]),
  ('sweep digits-lcam --grid epochs', ['--grid', 'SETTING=VALUE', "'epochs'"]),
  ('sweep digits-lcam --grid epochs=', ['--grid', "'epochs='"]),
  ('sweep digits-lcam --grid epochs=x', ['--epochs', 'INT', "'x'"]),
  ('sweep digits-lcam --grid epochs=1 epochs=2', ['--grid', 'epochs twice']),
  ('sweep digits-lcam --seed 3', ['--seed', '--first-seed']),
  ('sweep digits-lcam --depth 11', ['--depth', 'got 11']),
  ('42', ["'42'", 'sweep']),
  ('list nonesuch', ['nonesuch']),
  ('list --all', ['--all']),
  # The main job.
  ('--epochs 3', ['--epochs', '--help']),
  ('--run-dri x', ['--run-dri', '--run-dir PATH']),
  ('--run-dir', ['--run-dir']),
  # Names.
  ('run digits-lcm', ["'digits-lcm'", "'digits-lcam'"]),
  ('run digits-lcam extra', ['extra']),
  ('run --datset digits', ['--datset', '--dataset {digits']),
  ('run --learningrate 1', ['--learningrate', '--learning-rate FLOAT']),
  ('run --epochss=3', ['--epochss', '--epochs INT']),
  ('run -x', ['-x', '--help']),
  ('run --dataset mnist', ["'mnist'", '--dataset', "'cifar10'"]),
  ('run --dataset cifar', ["'cifar'", "'cifar10'"]),
  ('run --optimizer sdg', ["'sdg'", '--optimizer', "'sgd'"]),
  ('run --schedule step', ["'step'", '--schedule', "'steps'"]),
  ('run --dtype float16', ["'float16'", '--dtype', "'float32'"]),
  ('run --normalization none', ["'none'", '--normalization', "'dataset'"]),
  ('run --reaction last', ["'last'", '--reaction', "'next'"]),
  # Types.
  ('run --epochs many', ['--epochs', "'many'", 'INT']),
  ('run --epochs 2.5', ['--epochs', "'2.5'", 'INT']),
  ('run --epochs', ['--epochs', 'Missing value']),
  ('run --epochs 1 2', ['options: 2']),
  ('run --learning-rate fast', ['--learning-rate', "'fast'", 'FLOAT']),
  ('run --weight-decay 1e', ['--weight-decay', "'1e'", 'FLOAT']),
  ('run --milestones 1 x', ['--milestones', "'x'", 'FLOAT']),
  ('run --inclusive maybe', ['maybe']),
  # Ranges.
  ('run --epochs 0', ['--epochs', 'got 0', 'at least 1']),
  ('run --epochs -3', ['--epochs', '-3', 'at least 1']),
  ('run --batch-size 0', ['--batch-size', 'got 0', 'at least 1']),
  ('run --eval-batch-size 0', ['--eval-batch-size', 'got 0', 'at least 1']),
  ('run --depth 11', ['--depth', 'got 11', '6n + 4']),
  ('run --depth 4', ['--depth', 'got 4', '10, 16']),
  ('run --widen-factor 0', ['--widen-factor', 'got 0', 'at least 1']),
  ('run --dropout-rate 1', ['--dropout-rate', 'got 1', '[0, 1)']),
  ('run --vertical-momentum 1', ['--vertical-momentum', '[0, 1)']),
  ('run --horizontal-momentum -0.1', ['--horizontal-momentum', '[0, 1)']),
  ('run --initial-momentum nan', ['--initial-momentum', 'nan', '[0, 1)']),
  ('run --momentum inf', ['--momentum', 'inf', '[0, 1)']),
  ('run --learning-rate 0', ['--learning-rate', 'got 0', 'above 0']),
  ('run --learning-rate nan', ['--learning-rate', 'got nan', 'finite']),
  ('run --weight-decay -1', ['--weight-decay', 'got -1', 'at least 0']),
  ('run --decay-rate 2', ['--decay-rate', 'got 2', '(0, 1]']),
  ('run --loss-decay 1', ['--loss-decay', 'got 1', '(0, 1)']),
  ('run --milestones 3 2', ['--milestones', '(3.0, 2.0)', 'increasing']),
  ('run --seed -1', ['--seed', 'got -1', '4294967295']),
  ('run --coin-seed 4294967296', ['--coin-seed', '4294967296', 'from 0']),
  ('run --checkpoint-seconds -1', ['--checkpoint-seconds', '-1']),
  ('run --checkpoint-every 0', ['--checkpoint-every', 'got 0']),
  ('run --depth 6000004', ['--depth', 'at most 1000', 'got 6000004']),
  ('run --widen-factor 101', ['--widen-factor', 'at most 100', 'got 101']),
  ('run --eval-batch-size 3000000000', ['--eval-batch-size', '2147483647']),
  ('run --steps-per-dispatch 0', ['--steps-per-dispatch', 'got 0']),
  # Incompatible settings.
  ('run --normalization imagenet', ['--normalization', 'digits', 'imagenet']),
  ('run --optimizer coin', ['--horizontal-probability', 'coin']),
  (
    'run --optimizer coin --horizontal-probability 0.5 1.5',
    ['--horizontal-probability', '1.5', '[0, 1]'],
  ),
  ('run ablation-cifar10-coin', ['--horizontal-probability', 'sweep']),
  ('run ablation-cifar10-time-average', ['--momentum', 'sweep']),
  ('sweep digits --first-seed -1', ['--first-seed', '-1', 'at least 0']),
  (
    'run --schedule one-cycle --warmup-epochs 20',
    ['--warmup-epochs', '--epochs 20', 'got 20'],
  ),
  # Several processes.
  ('run --process-id 0', ['--coordinator', '--process-count', '--distributed']),
  (
    'run --coordinator host --process-id 0 --process-count 2',
    ['--coordinator', 'HOST:PORT', 'got host'],
  ),
  (
    'run --coordinator h:0 --process-id 0 --process-count 2',
    ['--coordinator', '65535', 'got h:0'],
  ),
  (
    'run --coordinator h:99 --process-id 2 --process-count 2',
    ['--process-id', 'from 0 to 1', 'got 2'],
  ),
  (
    'run --coordinator h:99 --process-id 0 --process-count 0',
    ['--process-count', 'at least 1', 'got 0'],
  ),
  # Limits from the data.
  ('run --train-examples 5000', ['--train-examples', '1437', '5000']),
  ('run --image-size 3', ['--image-size', 'divide 8', 'got 3']),
  ('run --epochs 1000000000', ['--epochs', 'at most 17', '12 steps']),
  (
    'run --dataset cifar10 --data-dir absent --run-dir run',
    ['pip install tensorflow'],
  ),
  # Paths.
  ('run --run-dir /dev/null', ['--run-dir /dev/null is not a directory']),
  ('run --run-dir /dev/null/run', ['/dev/null is not a directory']),
  ('--run-dir /dev/null', ['--run-dir /dev/null is not a directory']),
  ('sweep digits --run-dir /dev/null', ['--run-dir', 'not a directory']),
  ('probe --out /dev/null', ['--out /dev/null is not a directory']),
  ('probe --out /dev/null/x', ['--out /dev/null/x cannot be made']),
  ('movement absent --out /dev/null/x', ['--out /dev/null/x cannot be made']),
  ('traction --out /dev/null/x', ['--out /dev/null/x cannot be made']),
  ('run --run-dir gs://b/x', ['--run-dir: gs://b/x is not a path', 'Mount']),
  ('run --data-dir s3://b/x', ['--data-dir: s3://b/x is not a path']),
  ('report gs://b', ['PATH', ': gs://b is not a path of this machine']),
  ('report x --out ~nobody-is-called-so/x', ['home directory ~nobody-is']),
  ('run --run-dir \udcff', ['--run-dir: \\xff is not UTF-8']),
  ('movement absent --out /dev/null', ['--out', 'not a directory']),
  ('report absent --out /dev/null', ['--out', 'not a directory']),
  # Other commands.
  ('sweep', ['at least one experiment']),
  ('sweep figur2', ["'figur2'"]),
  ('sweep digits --seeds 0', ['--seeds', 'got 0']),
  ('sweep digits --seeds 10001', ['--seeds', 'at most 10000']),
  ('sweep digits --seeds two', ['--seeds', "'two'", 'INT']),
  ('sweep digits --sedes 3', ['--sedes', '--seeds INT']),
  ('sweep digits --runs-together 0', ['--runs-together', '0']),
  ('eval', ['run directory']),
  ('eval absent', ['absent']),
  ('eval absent --eval-batch-size 0', ['--eval-batch-size', 'got 0']),
  ('run --eval-every 0', ['--eval-every', 'got 0', 'at least 1']),
  ('run --validation-examples 0', ['--validation-examples', 'got 0']),
  ('run --validation-examples 1437', ['--validation-examples', '1437']),
  ('run --label-smoothing 1', ['--label-smoothing', 'got 1', '[0, 1)']),
  ('run --ema-decay 1', ['--ema-decay', 'got 1', '[0, 1)']),
  ('run --dataset folder', ['--data-dir', 'train/CLASS', 'folder']),
  ('run --dataset npz', ['--data-dir', 'train_images', 'npz']),
  ('run --dataset npz --data-dir absent', ['absent cannot be read']),
  ('report', ['directory']),
  ('report absent', ['absent']),
  ('report absent --out', ['--out', 'Missing value']),
  ('probe --seeds 1', ['--seeds', '1', 'at least 2']),
  ('probe --dataset mnist', ["'mnist'", "'cifar10'"]),
  ('probe --epochs 0', ['--epochs', 'got 0', 'at least 1']),
  ('probe --image-size 3', ['--image-size', 'divide 8', 'got 3']),
  ('probe --accelerated 1.5', ['--accelerated', 'got 1.5', 'below 1']),
  ('probe --accelerated', ['--accelerated']),
  ('probe --accelerated fast', ['--accelerated', "'fast'", 'FLOAT']),
  ('traction --steps 150', ['--steps', 'got 150', '100']),
  ('traction --steps 10000000', ['--steps', 'at most 1000000']),
  ('traction --seeds 0', ['--seeds', 'got 0', 'at least 1']),
  ('traction --seed -1', ['--seed', 'got -1', 'at most 4294967295']),
  ('traction --steps x', ['--steps', "'x'", 'INT']),
  ('movement', ['at least one']),
  ('movement absent', ['absent']),
  ('movement absent --epochs 0', ['--epochs', 'got 0', 'at least 1']),
  ('movement absent --epoch 3', ['--epoch', '--epochs INT']),
]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  # Wide enough that tyro does not wrap lines.
  monkeypatch.setenv('COLUMNS', '500')
  # JAX is already initialized.
  monkeypatch.setattr(jax_environment, 'prepare', lambda: [])


def _run(arguments):
  """The exit code and standard error of a command."""
  shown = io.StringIO()
  with contextlib.redirect_stderr(shown):
    code = program.main(arguments)
  return code, shown.getvalue()


@pytest.mark.parametrize(('line', 'parts'), _WRONG, ids=lambda x: str(x)[:60])
def test_an_invalid_command_line(line, parts, tmp_path):
  code, message = _run(line.split())
  assert code == 2
  if not _is_of_tyro(message):
    assert message.startswith('python -m train: ')
    assert len(message.splitlines()) == 1
  for part in parts:
    assert part in message
  assert list(tmp_path.iterdir()) == []


def _is_of_tyro(message):
  """Whether it has a frame, which is blank if the encoding is unknown."""
  return message.startswith(('╭─ ', ' ')) and len(message.splitlines()) > 2


@pytest.mark.parametrize(
  ('command', 'line', 'name'),
  [
    (program.MainFlags, '--run-dir ~/a', 'run_dir'),
    (program.ReportFlags, '~/a', 'directories'),
    (config_lib.Config, '--data-dir ~/a', 'data_dir'),
  ],
)
def test_a_home_directory(command, line, name, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  path = getattr(command_line.parse(command, line.split(), 'train'), name)
  assert path in (tmp_path / 'a', (tmp_path / 'a',))


def test_too_little_memory(monkeypatch):
  def run(*_, **__):
    raise jax.errors.JaxRuntimeError('INTERNAL: Out of memory allocating 9 B.')

  monkeypatch.setattr(loop, 'run', run)
  code, message = _run(['run', '--widen-factor', '100'])
  assert code == 1
  assert re.fullmatch(
    r'python -m train: there is not enough memory .*9 B.*--batch-size.*\n',
    message,
  )


def test_a_platform_that_does_not_exist(monkeypatch):
  def run(*_, **__):
    raise RuntimeError("Unable to initialize backend 'nope': it is not known.")

  monkeypatch.setenv('JAX_PLATFORMS', 'nope')
  monkeypatch.setattr(loop, 'run', run)
  code, message = _run(['run'])
  assert code == 2
  assert re.fullmatch(
    r'python -m train: JAX cannot start \(JAX_PLATFORMS=nope\): .*known.\n',
    message,
  )


@pytest.mark.parametrize('line', ['list', 'list --help', '--help'])
def test_output_that_cannot_be_written(line):
  with open('/dev/full', 'w') as full, contextlib.redirect_stdout(full):
    code, message = _run(line.split())
  assert code == 1
  assert message == (
    'python -m train: the output cannot be written: No space left on device.\n'
  )


def test_the_invalid_command_lines_are_distinct():
  assert len(dict(_WRONG)) == len(_WRONG) >= 40


_ALL_FLAGS = sorted(
  {
    config_lib.flag(field.name)
    for command in (
      config_lib.Config,
      program.RunFlags,
      program.SweepFlags,
      program.ReportFlags,
      *(study.flags for study in studies.STUDIES.values()),
    )
    for field in dataclasses.fields(command)
  }
)
_COMMANDS = ('run', 'sweep', 'report', *studies.STUDIES)
_NUMBERS = st.one_of(
  st.integers(-(2**33), 2**33), st.integers(-3, 30), st.floats()
).map(str)
_WORDS = st.one_of(
  st.sampled_from(_ALL_FLAGS),
  st.sampled_from(_ALL_FLAGS).map(lambda flag: flag[:-1]),
  st.sampled_from(_ALL_FLAGS).map(lambda flag: '--no-' + flag[2:]),
  st.sampled_from(sorted(experiments.EXPERIMENTS)),
  st.sampled_from(['digits', 'sgd', 'coin', 'steps', 'localhost:1', 'None']),
  _NUMBERS,
  st.text(max_size=6),
  st.builds('{}={}'.format, st.sampled_from(_ALL_FLAGS), _NUMBERS),
)
_LINES = st.builds(
  lambda command, words: [command, *words],
  st.sampled_from(_COMMANDS),
  st.lists(_WORDS, max_size=6),
)


@pytest.fixture
def _nothing_runs(monkeypatch):
  summary = {
    'status': 'done', 'final_test_error': None, 'best_test_error': None,
  }  # fmt: skip

  def run(config, *_, **__):
    config_lib.check(config)
    return summary

  monkeypatch.setattr(program, '_processes_of', contextlib.nullcontext)
  monkeypatch.setattr(loop, 'run', run)
  monkeypatch.setattr(sweep, 'sweep', lambda *_, **__: [])
  monkeypatch.setattr(report, 'write', lambda *_: '')
  for study in studies.STUDIES.values():
    monkeypatch.setattr(study.load(), 'measure', lambda *_, **__: {})
    monkeypatch.setattr(study.load(), 'sentences', lambda _: [])
  monkeypatch.setattr(studies.Study, 'write', lambda *_: None)


def _assert_answered(line):
  # A command line cannot contain NUL.
  line = [word.replace('\0', '') for word in line]
  with contextlib.redirect_stdout(io.StringIO()) as said:
    code, message = _run(line)
  assert code in (0, 2)
  if {'-h', '--help'} & {*line} and code == 0:
    assert 'usage' in said.getvalue()
  if code == 2:
    assert 'Traceback' not in message
    # It names a flag or the given word.
    assert '--' in message or any(
      (word and word in message) or repr(word) in message for word in line
    )
    if not _is_of_tyro(message):
      assert re.match('python -m train: .*\n', message, re.DOTALL)
      if all(word.isprintable() for word in line):
        assert len(message.splitlines()) == 1
  return code


@pytest.mark.usefixtures('_nothing_runs')
def test_random_command_lines(tmp_path):
  _fuzz(100)
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures('_nothing_runs')
def test_many_random_command_lines():
  _fuzz(5000)


def _fuzz(examples):
  codes = []

  @settings(
    max_examples=examples, deadline=None, database=None, derandomize=True
  )
  @given(_LINES)
  def fuzz(line):
    codes.append(_assert_answered(line))

  fuzz()
  print(f'\n{codes.count(2)} wrong and {codes.count(0)} right of {len(codes)}.')
  assert 2 in codes

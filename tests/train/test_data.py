"""Images from each source, and what happens when they cannot be had."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import platformdirs
import pytest
from sklearn import datasets

from train import data
from train import errors
from train.data import array_cache
from train.data import cifar


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setattr(array_cache, 'root', lambda: tmp_path / 'arrays')
  return tmp_path / 'arrays'


class TestDigits:
  def test_every_digit_is_in_one_split(self):
    digits = data.load('digits')
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    original = datasets.load_digits().images.reshape(1797, 64)
    ours = np.concatenate([digits.train.images, digits.test.images])
    # Pixels come as 0 to 16 and leave as 0 to 255.
    back = np.rint(ours.reshape(1797, 64) / 255 * 16)
    assert sorted(map(tuple, back)) == sorted(map(tuple, original))

  def test_the_split_is_stratified_and_fixed(self):
    first, second = data.load('digits'), data.load('digits')
    np.testing.assert_array_equal(first.test.images, second.test.images)
    shares = np.bincount(first.train.labels) / np.bincount(
      np.concatenate([first.train.labels, first.test.labels])
    )
    np.testing.assert_allclose(shares, 1437 / 1797, atol=0.01)

  def test_types(self):
    digits = data.load('digits')
    assert digits.train.images.dtype == np.uint8
    assert digits.train.images.shape == (1437, 8, 8, 1)
    assert digits.train.labels.dtype == np.int32
    assert digits.num_classes == 10
    assert not digits.flip

  def test_channel_statistics_against_numpy(self):
    digits = data.load('digits')
    mean, deviation = digits.channel_statistics()
    pixels = digits.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, [pixels.mean()], rtol=1e-6)
    np.testing.assert_allclose(deviation, [pixels.std()], rtol=1e-6)

  def test_the_first_examples_only(self):
    everything, some = data.load('digits'), data.load('digits', None, 100)
    np.testing.assert_array_equal(
      some.train.images, everything.train.images[:100]
    )
    assert len(some.test) == 360

  def test_more_examples_than_there_are(self):
    with pytest.raises(errors.UsageError, match=r'at most 1437.*got 1438'):
      data.load('digits', None, 1438)


# Channel means and deviations that are published with the data sets.
_STATISTICS = {
  'cifar10': ((0.49140, 0.48216, 0.44653), (0.24703, 0.24349, 0.26159)),
  'cifar100': ((0.50708, 0.48655, 0.44092), (0.26733, 0.25644, 0.27615)),
}

_ARRAYS = {'a': np.arange(5), 'b': np.ones((2, 3), np.uint8)}


class TestCifar:
  @pytest.mark.parametrize(
    ('name', 'classes'), [('cifar10', 10), ('cifar100', 100)]
  )
  def test_the_real_images(self, name, classes, cifar_dir):
    loaded = data.load(name, cifar_dir)
    assert loaded.train.images.shape == (50000, 32, 32, 3)
    assert loaded.test.images.shape == (10000, 32, 32, 3)
    assert loaded.train.images.dtype == np.uint8
    assert set(np.bincount(loaded.train.labels)) == {50000 // classes}
    assert set(np.bincount(loaded.test.labels)) == {10000 // classes}
    assert loaded.num_classes == classes
    assert loaded.flip
    assert loaded.crop_padding == 4
    mean, deviation = loaded.channel_statistics()
    np.testing.assert_allclose(mean, _STATISTICS[name][0], atol=1e-5)
    np.testing.assert_allclose(deviation, _STATISTICS[name][1], atol=1e-5)

  def test_examples_are_those_of_tfds(self, cifar_dir):
    import tensorflow_datasets as tfds

    source = tfds.data_source(
      'cifar100', split='test', data_dir=cifar_dir, download=False
    )
    test = data.load('cifar100', cifar_dir).test
    for i in (0, 1, 4999, 9999):
      np.testing.assert_array_equal(test.images[i], source[i]['image'])
      assert test.labels[i] == source[i]['label']

  def test_tensorflow_is_not_needed(self, cifar_dir):
    program = (
      'import pathlib, sys\n'
      'from train import data\n'
      'data.load("cifar10", pathlib.Path(sys.argv[1]))\n'
      'assert "tensorflow" not in sys.modules\n'
    )
    subprocess.run([sys.executable, '-c', program, cifar_dir], check=True)

  def test_the_second_time_comes_from_the_cache(self, cifar_dir, monkeypatch):
    data.load('cifar10', cifar_dir)
    monkeypatch.setattr(
      cifar, '_decode', lambda builder: pytest.fail('decoded')
    )
    data.load('cifar10', cifar_dir)

  def test_where_nothing_is_prepared_the_error_names_the_command(
    self, tmp_path, monkeypatch
  ):
    monkeypatch.setattr(cifar.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(errors.UsageError) as caught:
      data.load('cifar10', tmp_path)
    assert f'not prepared in {tmp_path}' in str(caught.value)
    assert '`pip install tensorflow`' in str(caught.value)
    assert '--data-dir' in str(caught.value)

  def test_where_tensorflow_is_there_tfds_prepares(
    self, tmp_path, monkeypatch, cache
  ):
    """Stands in for the download, which tests must not make."""
    builder = _FakeBuilder(tmp_path)
    _use(builder, monkeypatch)
    monkeypatch.setattr(cifar.importlib.util, 'find_spec', lambda name: object)
    loaded = data.load('cifar10', tmp_path)
    assert builder.prepared
    np.testing.assert_array_equal(loaded.train.labels, [0, 1, 2, 3])

  def test_a_download_that_fails_is_told(self, tmp_path, monkeypatch):
    builder = _FakeBuilder(tmp_path)
    builder.failure = OSError('no route to host')
    _use(builder, monkeypatch)
    monkeypatch.setattr(cifar.importlib.util, 'find_spec', lambda name: object)
    with pytest.raises(errors.UsageError, match='no route to host'):
      data.load('cifar10', tmp_path)

  @pytest.mark.parametrize(
    ('example', 'complaint'),
    [
      ({'image': np.zeros((8, 8, 3), np.uint8), 'label': 0}, r'\(8, 8, 3\)'),
      ({'image': np.zeros((32, 32, 3), np.uint8), 'label': 10}, 'label 10'),
      ({'image': np.zeros((32, 32, 3), np.uint8), 'label': -1}, 'label -1'),
    ],
  )
  def test_images_that_lie(
    self, tmp_path, monkeypatch, cache, example, complaint
  ):
    builder = _FakeBuilder(tmp_path, prepared=True)
    builder.examples[2] = example
    _use(builder, monkeypatch)
    with pytest.raises(errors.UsageError, match=complaint):
      data.load('cifar10', tmp_path)
    assert not list(cache.glob('*'))

  @pytest.mark.parametrize(
    ('file', 'change', 'complaint'),
    [
      ('*train*-00003-of-*', None, 'train split of cifar10'),
      ('*train*-00000-of-*', lambda b: b[: len(b) // 2], 'train split of'),
      ('*train*-00000-of-*', lambda b: b[:-100], 'train split of cifar10'),
      ('*train*-00000-of-*', lambda b: b'', 'train split of cifar10'),
      (
        'dataset_info.json',
        lambda b: b.replace(b'"3.0.2"', b'"4.0.0"'),
        '3.0.2.*4.0.0',
      ),
      ('dataset_info.json', lambda b: b[:200], 'cifar10 in .* cannot be read'),
      ('dataset_info.json', None, 'not prepared in'),
    ],
    ids=[
      'shard missing', 'shard cut in half', 'shard cut at its end',
      'shard empty', 'other version', 'description cut',
      'description missing',
    ],
  )  # fmt: skip
  def test_files_that_lie(
    self, cifar_dir, tmp_path, cache, file, change, complaint, monkeypatch
  ):
    find_spec = cifar.importlib.util.find_spec
    monkeypatch.setattr(
      cifar.importlib.util,
      'find_spec',
      lambda name: None if name == 'tensorflow' else find_spec(name),
    )
    source = cifar_dir / 'cifar10' / '3.0.2'
    copy = tmp_path / 'cifar10' / '3.0.2'
    copy.mkdir(parents=True)
    for path in source.iterdir():
      (copy / path.name).symlink_to(path)
    (changed,) = copy.glob(file)
    content = changed.read_bytes()
    changed.unlink()
    if change is not None:
      changed.write_bytes(change(content))
    with pytest.raises(errors.UsageError, match=complaint) as caught:
      data.load('cifar10', tmp_path)
    assert '\n' not in str(caught.value)
    assert not list(cache.glob('*'))


class TestArrayCache:
  def _build(self, calls):
    calls.append(1)
    return _ARRAYS

  def test_builds_once(self, cache):
    calls = []
    for _ in range(3):
      arrays = array_cache.load_or_build('key', lambda: self._build(calls))
    assert len(calls) == 1
    assert arrays.keys() == _ARRAYS.keys()
    for name, array in _ARRAYS.items():
      np.testing.assert_array_equal(arrays[name], array)
      assert arrays[name].dtype == array.dtype

  @pytest.mark.parametrize('damage', ['flip', 'cut', 'remove', 'manifest'])
  def test_a_damaged_entry_is_built_again(self, cache, damage):
    calls = []
    array_cache.load_or_build('key', lambda: self._build(calls))
    file = cache / 'key' / 'a.npy'
    content = bytearray(file.read_bytes())
    match damage:
      case 'flip':
        content[-1] ^= 1
        file.write_bytes(content)
      case 'cut':
        file.write_bytes(content[:-8])
      case 'remove':
        file.unlink()
      case 'manifest':
        (cache / 'key' / 'manifest.json').write_text('[1, 2')
    for _ in range(2):
      arrays = array_cache.load_or_build('key', lambda: self._build(calls))
      np.testing.assert_array_equal(arrays['a'], _ARRAYS['a'])
    assert len(calls) == 2
    assert [path.name for path in cache.iterdir()] == ['key']

  def test_nothing_is_unpickled(self, cache):
    array_cache.load_or_build('key', lambda: _ARRAYS)
    file = cache / 'key' / 'a.npy'
    np.save(file, np.asarray([print], object), allow_pickle=True)
    manifest = json.loads((cache / 'key' / 'manifest.json').read_text())
    manifest['a'] = array_cache._sha256(file)
    (cache / 'key' / 'manifest.json').write_text(json.dumps(manifest))
    arrays = array_cache.load_or_build('key', lambda: _ARRAYS)
    np.testing.assert_array_equal(arrays['a'], _ARRAYS['a'])

  def test_two_programs_that_build_it_at_once(self, tmp_path):
    program = (
      'import pathlib, sys, time\n'
      'import numpy as np\n'
      'from train.data import array_cache\n'
      'root = pathlib.Path(sys.argv[1])\n'
      'array_cache.root = lambda: root / "arrays"\n'
      'def build():\n'
      '  (root / f"ready-{sys.argv[2]}").touch()\n'
      '  while len(list(root.glob("ready-*"))) < 4: time.sleep(0.001)\n'
      '  return {"a": np.arange(10**6)}\n'
      'arrays = array_cache.load_or_build("key", build)\n'
      'assert (arrays["a"] == np.arange(10**6)).all()\n'
    )
    builders = [
      subprocess.Popen([sys.executable, '-c', program, tmp_path, str(i)])
      for i in range(4)
    ]
    assert [builder.wait(timeout=300) for builder in builders] == [0] * 4
    assert [path.name for path in (tmp_path / 'arrays').iterdir()] == ['key']
    # What they have left is whole: a fifth has nothing to build.
    for ready in tmp_path.glob('ready-*'):
      ready.unlink()
    subprocess.run(
      [sys.executable, '-c', program, tmp_path, '4'], check=True, timeout=300
    )
    assert not list(tmp_path.glob('ready-*'))

  def test_no_place_to_keep_it_is_no_error(self, monkeypatch, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    monkeypatch.setattr(array_cache, 'root', lambda: tmp_path / 'file' / 'x')
    arrays = array_cache.load_or_build('key', lambda: _ARRAYS)
    np.testing.assert_array_equal(arrays['a'], _ARRAYS['a'])

  def test_it_lies_in_the_users_cache(self):
    assert platformdirs.user_cache_path() in array_cache.root().parents


class _FakeBuilder:
  """A TFDS builder of four training examples and one test example."""

  name = 'cifar10'
  version = '9.9.9'

  def __init__(self, directory: pathlib.Path, prepared: bool = False):
    self.data_dir = str(directory / 'cifar10' / self.version)
    pathlib.Path(self.data_dir).mkdir(parents=True)
    self.prepared = prepared
    self.failure: Exception | None = None
    self.examples = [
      {'image': np.full((32, 32, 3), i, np.uint8), 'label': i} for i in range(4)
    ]

  @property
  def info(self):
    return self

  @property
  def features(self):
    return {'label': self}

  num_classes = 10

  @property
  def splits(self):
    class Split:
      def __init__(self, num_examples):
        self.num_examples = num_examples

    return {'train': Split(4), 'test': Split(1)}

  def is_prepared(self):
    return self.prepared

  def download_and_prepare(self):
    if self.failure:
      raise self.failure
    self.prepared = True

  def as_data_source(self, split):
    return self.examples if split == 'train' else self.examples[:1]


def _use(builder, monkeypatch):
  import tensorflow_datasets as tfds

  monkeypatch.setattr(tfds, 'builder', lambda name, **_: builder)

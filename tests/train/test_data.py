"""Images from each source, and the errors if they cannot be read."""

import hashlib
import importlib
import inspect
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import types
from typing import get_args

from array_record.python import array_record_module
import cv2
import filelock
import numpy as np
import platformdirs
import pytest
from sklearn import datasets
from tensorflow_datasets.proto import tf_example_generated_pb2

from tests.train import tfds_directory
from train import array_cache
from train import config as config_lib
from train import data
from train import errors
from train import sources
from train.data import dataset as dataset_lib
from train.data import tfds as tfds_reader


@pytest.fixture
def cache(tmp_path, monkeypatch):
  monkeypatch.setattr(array_cache, 'root', lambda: tmp_path / 'arrays')
  return tmp_path / 'arrays'


def _flip_a_bit(content):
  changed = bytearray(content)
  changed[len(content) // 2] ^= 1
  return bytes(changed)


class TestDigits:
  def test_every_digit_is_in_one_split(self):
    digits = data.load('digits')
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    original = datasets.load_digits().images.reshape(1797, 64)
    ours = np.concatenate([digits.train.images, digits.test.images])
    # Pixels from 0 to 16 are scaled to 0 to 255.
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

  def test_channel_statistics_equal_numpy(self):
    digits = data.load('digits')
    mean, std = digits.channel_statistics()
    pixels = digits.train.images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, [pixels.mean()], rtol=1e-6)
    np.testing.assert_allclose(std, [pixels.std()], rtol=1e-6)

  def test_the_first_examples_only(self):
    everything, some = data.load('digits'), data.load('digits', None, 100)
    np.testing.assert_array_equal(
      some.train.images, everything.train.images[:100]
    )
    assert len(some.test) == 360

  def test_more_examples_than_there_are(self):
    with pytest.raises(errors.UsageError, match=r'at most 1437.*got 1438'):
      data.load('digits', None, 1438)


# Published channel means and standard deviations of the data sets.
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
    mean, std = loaded.channel_statistics()
    np.testing.assert_allclose(mean, _STATISTICS[name][0], atol=1e-5)
    np.testing.assert_allclose(std, _STATISTICS[name][1], atol=1e-5)

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

  def test_the_second_load_reads_the_cache(self, cifar_dir, monkeypatch):
    data.load('cifar10', cifar_dir)
    monkeypatch.setattr(
      tfds_reader, '_decode', lambda builder: pytest.fail('decoded')
    )
    data.load('cifar10', cifar_dir)

  def test_if_nothing_is_prepared_the_error_names_the_command(
    self, tmp_path, monkeypatch
  ):
    monkeypatch.setattr(
      tfds_reader.importlib.util, 'find_spec', lambda name: None
    )
    with pytest.raises(errors.UsageError) as caught:
      data.load('cifar10', tmp_path)
    assert f'not prepared in {tmp_path}' in str(caught.value)
    assert '`pip install tensorflow`' in str(caught.value)
    assert '--data-dir' in str(caught.value)

  def test_with_tensorflow_tfds_prepares_the_data(
    self, tmp_path, monkeypatch, cache
  ):
    """Replaces the download, because tests must not use the network."""
    builder = _FakeBuilder(tmp_path)
    _use(builder, monkeypatch)
    monkeypatch.setattr(
      tfds_reader.importlib.util, 'find_spec', lambda name: object
    )
    loaded = data.load('cifar10', tmp_path)
    assert builder.prepared
    np.testing.assert_array_equal(loaded.train.labels, [0, 1, 2, 3])

  def test_a_failed_download_is_reported(self, tmp_path, monkeypatch):
    builder = _FakeBuilder(tmp_path)
    builder.failure = OSError('no route to host')
    _use(builder, monkeypatch)
    monkeypatch.setattr(
      tfds_reader.importlib.util, 'find_spec', lambda name: object
    )
    with pytest.raises(errors.UsageError, match='no route to host'):
      data.load('cifar10', tmp_path)

  @pytest.mark.parametrize(
    ('name', 'content', 'complaint'),
    [
      ('label', 10, 'label 10 is not from 0 to 9'),
      ('label', -1, 'label -1 is not from 0 to 9'),
      ('image', np.zeros((8, 8, 3)), r'image 5 has shape \(8, 8, 3\)'),
      ('image', b'not an image', 'train split of cifar10'),
    ],
    ids=['label too large', 'label negative', 'small image', 'no image'],
  )
  def test_invalid_images(self, tmp_path, cache, name, content, complaint):
    (shard,) = _few_of_cifar(tmp_path).glob('*train*-00000-of-*')
    _change_example(shard, 5, name, content)
    with pytest.raises(errors.UsageError, match=complaint) as caught:
      data.load('cifar10', tmp_path)
    assert '\n' not in str(caught.value)
    assert not list(cache.glob('*'))

  @pytest.mark.parametrize(
    ('file', 'change', 'complaint'),
    [
      ('*train*-00003-of-*', None, 'train split of cifar10'),
      ('*train*-00000-of-*', lambda b: b[: len(b) // 2], 'train split of'),
      ('*train*-00000-of-*', lambda b: b[:-100], 'train split of cifar10'),
      ('*train*-00000-of-*', lambda b: b'', 'train split of cifar10'),
      ('*train*-00000-of-*', _flip_a_bit, 'train split of cifar10'),
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
      'shard empty', 'bit flipped', 'other version', 'description cut',
      'description missing',
    ],
  )  # fmt: skip
  def test_damaged_files(
    self, tmp_path, cache, file, change, complaint, monkeypatch
  ):
    find_spec = tfds_reader.importlib.util.find_spec
    monkeypatch.setattr(
      tfds_reader.importlib.util,
      'find_spec',
      lambda name: None if name == 'tensorflow' else find_spec(name),
    )
    (changed,) = _few_of_cifar(tmp_path).glob(file)
    content = changed.read_bytes()
    changed.unlink()
    if change is not None:
      changed.write_bytes(change(content))
    with pytest.raises(errors.UsageError, match=complaint) as caught:
      data.load('cifar10', tmp_path)
    assert '\n' not in str(caught.value)
    assert not list(cache.glob('*'))


_RNG = np.random.default_rng(0)
_IMAGES = _RNG.integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
_LABELS = np.arange(6, dtype=np.int32)
_SPLIT = (_IMAGES, _LABELS)


class TestSources:
  def test_the_sources_are_the_choices_of_the_flag(self):
    assert get_args(config_lib.Dataset) == tuple(sources.SOURCES)
    assert tuple(sources.SOURCES)[:3] == ('digits', 'cifar10', 'cifar100')

  @pytest.mark.parametrize('source', sources.SOURCES.values())
  def test_each_source_has_a_reader(self, source):
    reader = importlib.import_module(f'train.data.{source.reader}')
    assert [*inspect.signature(reader.load).parameters] == ['name', 'data_dir']
    assert source.channels in (1, 3, None)

  def test_an_unknown_name_is_rejected(self):
    with pytest.raises(errors.UsageError, match=r"'cifar1'.*Did you mean"):
      data.load('cifar1')

  @pytest.mark.parametrize(
    ('classes', 'train', 'test', 'complaint'),
    [
      (6, _SPLIT, _SPLIT, None),
      (6, _SPLIT, (_IMAGES[:, :8], _LABELS), r'one size.*test.*8, 32, 3'),
      (6, _SPLIT, (_IMAGES[..., :1], _LABELS), r'width, 3\).*32, 1\)'),
      (6, (_IMAGES / 255, _LABELS), _SPLIT, 'uint8.*train.*float64'),
      (6, (_IMAGES, np.int64(_LABELS)), _SPLIT, 'int32.*train.*int64'),
      (6, (_IMAGES, _LABELS[:5]), _SPLIT, r'\(6,\).*train.*\(5,\)'),
      (6, _SPLIT, (_IMAGES[:0], _LABELS[:0]), 'test split is empty'),
      (5, _SPLIT, _SPLIT, 'label 5 is not from 0 to 4'),
    ],
  )
  def test_the_result_of_a_reader_is_checked(
    self, classes, train, test, complaint, monkeypatch
  ):
    returned = dataset_lib.Splits(
      classes, dataset_lib.Split(*train), dataset_lib.Split(*test)
    )
    monkeypatch.setattr(tfds_reader, 'load', lambda name, data_dir: returned)
    if complaint is None:
      assert data.load('cifar10').num_classes == classes
      return
    with pytest.raises(errors.UsageError, match=f'cifar10.*{complaint}'):
      data.load('cifar10')


class TestMoreOfTfds:
  """Files in the format of TensorFlow Datasets."""

  @pytest.fixture(autouse=True)
  def register(self, monkeypatch, cache):
    monkeypatch.setitem(
      sources.SOURCES, 'cats_vs_dogs', sources.SOURCES['cifar10']
    )

  def test_is_read(self, tmp_path):
    tfds_directory.write(
      tmp_path,
      'svhn_cropped',
      {'train': (_IMAGES, _LABELS), 'test': (_IMAGES[:2], _LABELS[:2])},
    )
    loaded = data.load('svhn_cropped', tmp_path)
    np.testing.assert_array_equal(loaded.train.images, _IMAGES)
    np.testing.assert_array_equal(loaded.test.labels, _LABELS[:2])
    assert (loaded.num_classes, loaded.crop_padding) == (10, 4)
    assert not loaded.flip

  def test_images_of_one_channel_are_read(self, tmp_path):
    images = _IMAGES[:, :28, :28, :1]
    splits = {'train': (images, _LABELS), 'test': (images[:2], _LABELS[:2])}
    tfds_directory.write(tmp_path, 'fashion_mnist', splits)
    loaded = data.load('fashion_mnist', tmp_path)
    np.testing.assert_array_equal(loaded.train.images, images)
    assert (loaded.num_classes, loaded.flip) == (10, True)

  def test_without_a_test_split(self, tmp_path):
    tfds_directory.write(
      tmp_path, 'svhn_cropped', {'train': (_IMAGES, _LABELS)}
    )
    with pytest.raises(errors.UsageError, match='splits train, not'):
      data.load('svhn_cropped', tmp_path)

  def test_with_images_of_all_sizes(self, tmp_path):
    split = (_IMAGES, _LABELS % 2)
    tfds_directory.write(tmp_path, 'cats_vs_dogs', {'train': split})
    with pytest.raises(errors.UsageError, match='different sizes'):
      data.load('cats_vs_dogs', tmp_path)


class TestFolder:
  def _write(self, folder, images, labels=(0, 1, 2, 0, 1, 2)):
    for split in ('train', 'test'):
      for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / split / f'class {label}' / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        channels = slice(None, None, -1)  # OpenCV uses BGR.
        cv2.imwrite(str(path), image[..., channels])

  @pytest.mark.parametrize('channels', [1, 3])
  def test_is_read(self, channels, tmp_path):
    images = _IMAGES[..., :channels]
    self._write(tmp_path, images)
    loaded = data.load('folder', tmp_path)
    assert (loaded.num_classes, loaded.crop_padding) == (3, 4)
    # Sorted by class, then by name.
    np.testing.assert_array_equal(
      loaded.test.images, images[[0, 3, 1, 4, 2, 5]]
    )
    np.testing.assert_array_equal(loaded.test.labels, [0, 0, 1, 1, 2, 2])
    of_label = {i.tobytes(): n % 3 for n, i in enumerate(images)}
    for image, label in zip(
      loaded.train.images, loaded.train.labels, strict=True
    ):
      assert of_label[image.tobytes()] == label
    # Shuffled, so that the first examples are of several classes.
    assert [*loaded.train.labels] != [0, 0, 1, 1, 2, 2]
    again = data.load('folder', tmp_path)
    np.testing.assert_array_equal(again.train.labels, loaded.train.labels)

  def test_invalid_folders_are_rejected(self, tmp_path):
    def refused(match):
      with pytest.raises(errors.UsageError, match=match):
        data.load('folder', tmp_path)

    refused('train cannot be read: No such')
    (tmp_path / 'train').mkdir()
    refused('no folders. It must have one for each class')
    self._write(tmp_path, _IMAGES)
    damaged = tmp_path / 'train' / 'class 0' / '0.png'
    whole = damaged.read_bytes()
    for content in (b'', b'not an image', whole[:60]):
      damaged.write_bytes(content)
      refused(r'0\.png is not an image')
    cv2.imwrite(str(damaged), _IMAGES[0, :8])
    refused('8 x 32 pixels.*one size|32 x 32 pixels.*8 x 32.*one size')
    damaged.write_bytes(whole)
    (tmp_path / 'test' / 'other').mkdir()
    refused('other is not a class in')


class TestNpz:
  _ARRAYS = types.MappingProxyType(
    {
      'train_images': _IMAGES,
      'train_labels': _LABELS,
      'test_images': _IMAGES[:2],
      'test_labels': _LABELS[:2],
    }
  )

  def test_is_read(self, tmp_path):
    np.savez(tmp_path / 'a.npz', **self._ARRAYS)
    loaded = data.load('npz', tmp_path / 'a.npz')
    np.testing.assert_array_equal(loaded.train.images, _IMAGES)
    np.testing.assert_array_equal(loaded.test.labels, _LABELS[:2])
    assert loaded.train.labels.dtype == np.int32
    assert (loaded.num_classes, loaded.crop_padding, loaded.flip) == (
      6, 4, False,
    )  # fmt: skip

  def test_the_names_of_keras_are_accepted(self, tmp_path):
    names = ('x_train', 'y_train', 'x_test', 'y_test')
    grey = {k: v[..., 0] if v.ndim == 4 else v[:, None] for k, v in (
      self._ARRAYS.items()
    )}  # fmt: skip
    np.savez(tmp_path / 'a.npz', **dict(zip(names, grey.values(), strict=True)))
    loaded = data.load('npz', tmp_path / 'a.npz')
    np.testing.assert_array_equal(loaded.train.images, _IMAGES[..., :1])
    np.testing.assert_array_equal(loaded.train.labels, _LABELS)

  @pytest.mark.parametrize(
    ('changes', 'match'),
    [
      ({'train_images': _IMAGES / 255}, 'uint8.*float64'),
      ({'test_images': _IMAGES[:2, 0, 0]}, r'uint8.*\(2, 3\)'),
      ({'train_labels': _LABELS - 1}, 'whole numbers from 0'),
      ({'train_labels': _LABELS / 2}, 'whole numbers.*float64'),
      ({'train_labels': _LABELS[:3]}, 'labels must be'),
      ({'test_images': _IMAGES[:2, :8]}, 'one size'),
    ],
  )
  def test_invalid_arrays_are_rejected(self, changes, match, tmp_path):
    np.savez(tmp_path / 'a.npz', **{**self._ARRAYS, **changes})
    with pytest.raises(errors.UsageError, match=match):
      data.load('npz', tmp_path / 'a.npz')

  def test_other_files_are_rejected(self, tmp_path):
    path = tmp_path / 'a.npz'
    np.savez(path, images=_IMAGES)
    with pytest.raises(errors.UsageError, match=r'train_images.*got images'):
      data.load('npz', path)
    whole = path.read_bytes()
    for content in (b'', b'PK', whole[: len(whole) // 2]):
      path.write_bytes(content)
      with pytest.raises(errors.UsageError, match=r'not an \.npz file'):
        data.load('npz', path)
    np.savez(path, images=np.asarray([{}]))
    with pytest.raises(errors.UsageError, match=r'not an \.npz file'):
      data.load('npz', path)
    with pytest.raises(errors.UsageError, match='is not a file'):
      data.load('npz', tmp_path)


class TestArrayCache:
  def _build(self, calls):
    calls.append(1)
    return _ARRAYS

  def test_builds_once(self, cache):
    calls = []
    for _ in range(3):
      arrays = array_cache.load_or_build(
        'key', _ARRAYS, lambda: self._build(calls)
      )
    assert len(calls) == 1
    assert arrays.keys() == _ARRAYS.keys()
    for name, array in _ARRAYS.items():
      np.testing.assert_array_equal(arrays[name], array)
      assert arrays[name].dtype == array.dtype

  @pytest.mark.parametrize(
    'damage',
    [
      'flip', 'cut', 'remove', 'pipe', 'manifest cut', 'manifest empty',
      'manifest short', 'manifest deep', 'manifest pipe', 'header', 'zip',
      'file', 'link',
    ],
  )  # fmt: skip
  def test_a_damaged_entry_is_rebuilt(self, cache, damage):
    calls = []
    self._load(calls)
    entry = cache / 'key'
    file, manifest = entry / 'a.npy', entry / 'manifest.json'
    content = bytearray(file.read_bytes())
    match damage:
      case 'flip':
        content[-1] ^= 1
        file.write_bytes(content)
      case 'cut':
        file.write_bytes(content[:-8])
      case 'remove':
        file.unlink()
      case 'pipe':
        file.unlink()
        os.mkfifo(file)
      case 'manifest cut':
        manifest.write_text('[1, 2')
      case 'manifest empty':
        manifest.write_text('{}')
      case 'manifest short':
        checksums = json.loads(manifest.read_text())
        del checksums['a']
        manifest.write_text(json.dumps(checksums))
      case 'manifest deep':
        manifest.write_text('{"a":' * 10**5)
      case 'manifest pipe':
        manifest.unlink()
        os.mkfifo(manifest)
      case 'header':
        shape = str(_ARRAYS['a'].shape).encode()
        claims = str((10**13 // _ARRAYS['a'].itemsize,)).encode()
        assert shape in content
        content = content.replace(shape, claims)
        # The header is padded with spaces to a multiple of 64 bytes.
        more = len(claims) - len(shape)
        content = content.replace(b' ' * more + b'\n', b'\n', 1)
        self._replace(file, bytes(content))
        with file.open('rb') as opened:
          np.lib.format.read_magic(opened)
          shape, *_ = np.lib.format.read_array_header_1_0(opened)
        assert np.prod(shape) * _ARRAYS['a'].itemsize > 0.9e13
      case 'zip':
        packed = io.BytesIO()
        np.savez(packed, a=_ARRAYS['a'])
        self._replace(file, packed.getvalue())
      case 'file':
        shutil.rmtree(entry)
        entry.write_text('in the way')
      case 'link':
        shutil.rmtree(entry)
        entry.symlink_to('nowhere')
    for _ in range(2):
      arrays = self._load(calls)
      np.testing.assert_array_equal(arrays['a'], _ARRAYS['a'])
    assert len(calls) == 2
    assert [path.name for path in cache.iterdir()] == ['key']

  def _load(self, calls):
    return array_cache.load_or_build('key', _ARRAYS, lambda: self._build(calls))

  def _replace(self, file, content):
    """Replaces a file and its checksum in the manifest."""
    manifest = file.with_name('manifest.json')
    checksums = json.loads(manifest.read_text())
    checksums[file.stem] = hashlib.sha256(content).hexdigest()
    file.write_bytes(content)
    manifest.write_text(json.dumps(checksums))

  def test_nothing_is_unpickled(self, cache):
    array_cache.load_or_build('key', _ARRAYS, lambda: _ARRAYS)
    file = cache / 'key' / 'a.npy'
    np.save(file, np.asarray([print], object), allow_pickle=True)
    manifest = json.loads((cache / 'key' / 'manifest.json').read_text())
    manifest['a'] = array_cache._sha256(file)
    (cache / 'key' / 'manifest.json').write_text(json.dumps(manifest))
    arrays = array_cache.load_or_build('key', _ARRAYS, lambda: _ARRAYS)
    np.testing.assert_array_equal(arrays['a'], _ARRAYS['a'])

  def test_files_left_by_killed_programs_are_removed(self, cache):
    """They are also removed if the entry itself is intact."""
    calls = []
    self._load(calls)
    for name in ('tmpabc', 'tmpabc.old'):
      (cache / name).mkdir()
      (cache / name / 'a.npy').write_bytes(b'half of it')
    (cache / 'tmpfile.old').write_text('of a file that was in the way')
    self._load(calls)
    assert len(calls) == 1
    assert [path.name for path in cache.iterdir()] == ['key']

  def test_files_of_a_running_program_are_kept(self, cache):
    calls = []
    self._load(calls)
    (cache / 'tmpabc').mkdir()
    with filelock.FileLock(cache.with_suffix('.lock')):
      self._load(calls)
      assert (cache / 'tmpabc').is_dir()
    self._load(calls)
    assert not (cache / 'tmpabc').exists()

  def test_several_programs_can_build_an_entry_at_once(self, tmp_path):
    program = (
      'import pathlib, sys, time\n'
      'import numpy as np\n'
      'from train import array_cache\n'
      'root = pathlib.Path(sys.argv[1])\n'
      'array_cache.root = lambda: root / "arrays"\n'
      'def build():\n'
      '  (root / f"ready-{sys.argv[2]}").touch()\n'
      '  while len(list(root.glob("ready-*"))) < 4: time.sleep(0.001)\n'
      '  return {"a": np.arange(10**6)}\n'
      'arrays = array_cache.load_or_build("key", ["a"], build)\n'
      'assert (arrays["a"] == np.arange(10**6)).all()\n'
    )
    builders = [
      subprocess.Popen([sys.executable, '-c', program, tmp_path, str(i)])
      for i in range(4)
    ]
    assert [builder.wait(timeout=300) for builder in builders] == [0] * 4
    assert [path.name for path in (tmp_path / 'arrays').iterdir()] == ['key']
    # The entry is intact, so a fifth program does not build it.
    for ready in tmp_path.glob('ready-*'):
      ready.unlink()
    subprocess.run(
      [sys.executable, '-c', program, tmp_path, '4'], check=True, timeout=300
    )
    assert not list(tmp_path.glob('ready-*'))

  def test_a_cache_that_cannot_be_written_is_no_error(
    self, monkeypatch, tmp_path
  ):
    (tmp_path / 'file').write_text('in the way')
    monkeypatch.setattr(array_cache, 'root', lambda: tmp_path / 'file' / 'x')
    arrays = array_cache.load_or_build('key', _ARRAYS, lambda: _ARRAYS)
    np.testing.assert_array_equal(arrays['a'], _ARRAYS['a'])

  def test_it_is_in_the_cache_of_the_user(self):
    assert platformdirs.user_cache_path() in array_cache.root().parents


def _few_of_cifar(data_dir):
  """Writes a CIFAR-10 of 40 and 8 noisy images, which tests change."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
  labels = np.arange(40) % 10
  splits = {'train': (images, labels), 'test': (images[:8], labels[:8])}
  return tfds_directory.write(data_dir, 'cifar10', splits, shards=4)


def _change_example(shard, number, name, content):
  """Replaces a label or image in a file of examples."""
  records = array_record_module.ArrayRecordReader(str(shard)).read_all()
  example = tf_example_generated_pb2.Example.FromString(records[number])
  feature = example.features.feature[name]
  if name == 'label':
    feature.int64_list.value[:] = [content]
  else:
    if not isinstance(content, bytes):
      content = cv2.imencode('.png', content)[1].tobytes()
    feature.bytes_list.value[:] = [content]
  records[number] = example.SerializeToString()
  shard.unlink()
  writer = array_record_module.ArrayRecordWriter(str(shard), 'group_size:1')
  for record in records:
    writer.write(record)
  writer.close()


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
    return {'image': self, 'label': self}

  num_classes = 10
  shape = (32, 32, 3)

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

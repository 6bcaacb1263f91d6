"""The data sets of `--dataset` by name: descriptions without code.

To add one, add an entry to `SOURCES` and, unless TensorFlow Datasets has it, a
reader in train/data/. CONTRIBUTING.md shows both.
"""

import dataclasses

from train import errors


@dataclasses.dataclass(frozen=True)
class ProbeSize:
  """The size of a probe: a few minutes on two CPU cores."""

  train_examples: int = 2048
  validation_examples: int = 2000
  """Training images held out to measure the error on."""
  image_size: int = 16
  """Height and width of the shrunken images, in pixels."""
  epochs: int = 8


@dataclasses.dataclass(frozen=True)
class Source:
  """Where a data set comes from, and how it is augmented."""

  reader: str
  """Module in train/data/ with the function ``load(name, data_dir)``, which
  returns :class:`train.data.dataset.Splits`. Imported on first use."""
  channels: int | None
  """Number of image channels: 1 or 3; ``None``: either, as in the files."""
  crop_padding: int | None
  """Zeros around an image before the random crop, in pixels; ``None``: an
  eighth of its width."""
  flip: bool
  """Whether to augment with horizontal flips."""
  image_size: int = 32
  """Approximate height and width of the images, in pixels, to estimate the
  memory of a run before they are read."""
  probe: ProbeSize = ProbeSize()


_CIFAR = Source(reader='tfds', channels=3, crop_padding=4, flip=True)

_OWN_FILES = Source(
  reader='folder', channels=None, crop_padding=None, flip=False
)

SOURCES: dict[str, Source] = {
  'digits': Source(
    reader='digits',
    channels=1,
    # An eighth of the width, as for CIFAR (4 pixels).
    crop_padding=1,
    flip=False,
    image_size=8,
    # Everything but the test set.
    probe=ProbeSize(
      train_examples=1024, validation_examples=413, image_size=8, epochs=6
    ),
  ),
  'cifar10': _CIFAR,
  'cifar100': _CIFAR,
  # House numbers: a mirrored digit belongs to no class.
  'svhn_cropped': dataclasses.replace(_CIFAR, flip=False),
  'fashion_mnist': Source(
    reader='tfds',
    channels=1,
    crop_padding=4,
    flip=True,
    image_size=28,
    probe=ProbeSize(image_size=14),
  ),
  # Nothing is known about the user's files.
  'folder': _OWN_FILES,
  'npz': dataclasses.replace(_OWN_FILES, reader='npz'),
}


def get(name: str) -> Source:
  """The source of this name. UsageError suggests the nearest name."""
  if name in SOURCES:
    return SOURCES[name]
  raise errors.UsageError(
    f'--dataset must be one of {", ".join(SOURCES)}, got {name!r}.'
    f'{errors.did_you_mean(name, SOURCES)}'
  )

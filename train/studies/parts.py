"""Finished parts of a study on disk, so that an interrupted study resumes.

A part is what a study measures on one network or one group of networks. Its
file name is a checksum of everything that determines it, so that a study with
other settings, images, source or versions neither reads nor replaces it.
"""

from collections.abc import Callable, Collection, Mapping
import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np

from train import array_cache
from train.data import dataset as dataset_lib
from train.records import run_directory


def measure_once(
  folder: pathlib.Path | None,
  dataset: dataset_lib.Dataset,
  facts: Mapping[str, Any],
  names: Collection[str],
  measure: Callable[[], Mapping[str, np.ndarray]],
) -> dict[str, np.ndarray]:
  """Reads a part, or measures and writes it.

  Args:
    folder: The folder of all parts. ``None``: measure, and write nothing.
    dataset: Its images.
    facts: JSON values that determine the part, besides the images, the source,
      versions and the kind of device.
    names: Names of its arrays.
    measure: Returns its arrays by name.

  Returns:
    Its arrays by name.
  """
  if folder is None:
    return dict(measure())
  everything = {
    **facts,
    **run_directory.software(),
    'images': dataset.sha256(),
    'device_kind': jax.devices()[0].device_kind,
  }
  digest = hashlib.sha256(
    json.dumps(everything, sort_keys=True).encode()
  ).hexdigest()
  return array_cache.load_or_build(
    digest[:16], names, lambda: dict(measure()), folder
  )

"""Writes a directory of TensorFlow Datasets without TensorFlow."""

import io
import json
import pathlib

from array_record.python import array_record_module
import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer


def write(
  data_dir: pathlib.Path,
  name: str,
  splits: dict[str, tuple[np.ndarray, np.ndarray]],
  shards: int = 1,
) -> pathlib.Path:
  """Writes some shards for each split, with images as PNG.

  Args:
    data_dir: TensorFlow Datasets directory.
    name: A data set of TensorFlow Datasets with images, labels and optional
      strings.
    splits: Images, uint8 with shape=(examples, height, width, channels), and
      labels, shape=(examples,), by split.
    shards: Number of files per split.

  Returns:
    The directory of the version of the data set.
  """
  builder = tfds.builder(name, data_dir=data_dir)
  features = builder.info.features
  directory = pathlib.Path(builder.data_dir)
  directory.mkdir(parents=True)
  serializer = example_serializer.ExampleSerializer(
    features.get_serialized_info()
  )
  for split, (images, labels) in splits.items():
    for shard, numbers in enumerate(
      np.array_split(np.arange(len(labels)), shards)
    ):
      file = f'{name}-{split}.array_record-{shard:05}-of-{shards:05}'
      writer = array_record_module.ArrayRecordWriter(
        str(directory / file), 'group_size:1'
      )
      for i in numbers:
        _, png = cv2.imencode('.png', images[i, ..., ::-1])  # OpenCV's is BGR.
        encoded = features.encode_example(
          {
            **dict.fromkeys(features, f'{split}_{i}'),
            'image': io.BytesIO(png.tobytes()),
            'label': int(labels[i]),
          }
        )
        writer.write(serializer.serialize_example(encoded))
      writer.close()
  features.save_config(directory)
  (directory / 'dataset_info.json').write_text(
    json.dumps(
      {
        'name': name,
        'version': str(builder.version),
        'fileFormat': 'array_record',
        'splits': [
          {
            'name': split,
            'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
            'shardLengths': [
              str(len(part)) for part in np.array_split(labels, shards)
            ],
          }
          for split, (_, labels) in splits.items()
        ],
      }
    )
  )
  return directory

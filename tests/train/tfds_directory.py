"""Writes a directory as TensorFlow Datasets prepares it, without TensorFlow."""

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
) -> pathlib.Path:
  """Writes one shard for each split, with images as PNG.

  Args:
    data_dir: TensorFlow Datasets directory.
    name: A data set that TensorFlow Datasets knows, of images, labels and
      perhaps a string for each.
    splits: Images, uint8 with shape=(examples, height, width, channels), and
      labels, shape=(examples,), by split.

  Returns:
    The directory of the data set's version.
  """
  builder = tfds.builder(name, data_dir=data_dir)
  features = builder.info.features
  directory = pathlib.Path(builder.data_dir)
  directory.mkdir(parents=True)
  serializer = example_serializer.ExampleSerializer(
    features.get_serialized_info()
  )
  for split, (images, labels) in splits.items():
    writer = array_record_module.ArrayRecordWriter(
      str(directory / f'{name}-{split}.array_record-00000-of-00001'),
      'group_size:1',
    )
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
      _, png = cv2.imencode('.png', image[..., ::-1])  # OpenCV's is BGR.
      encoded = features.encode_example(
        {
          **dict.fromkeys(features, f'{split}_{i}'),
          'image': io.BytesIO(png.tobytes()),
          'label': int(label),
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
            'shardLengths': [str(len(labels))],
          }
          for split, (_, labels) in splits.items()
        ],
      }
    )
  )
  return directory

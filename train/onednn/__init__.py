"""Convolutions by oneDNN, and batch norm with ReLU, for training on a CPU.

Optional: ``python -m train.onednn build`` compiles them if a C++ compiler
and oneDNN are installed. They are faster than those of XLA, and differ from
them by rounding.
"""

from train.onednn.batch_norm import batch_norm_relu
from train.onednn.convolution import conv_general_dilated
from train.onednn.library import Unavailable
from train.onednn.library import load as _load

__all__ = [
  'Unavailable',
  'batch_norm_relu',
  'conv_general_dilated',
  'is_available',
  'why_not',
]


def why_not() -> str | None:
  """Why the kernels cannot be used in this process, or None if they can."""
  try:
    _load()
  except Unavailable as error:
    return str(error)
  return None


def is_available() -> bool:
  """Whether the kernels are built and can be used in this process."""
  return why_not() is None

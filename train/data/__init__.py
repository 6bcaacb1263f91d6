"""Data sets: uint8 images and labels from any source."""

from train.data.dataset import Dataset
from train.data.dataset import Split
from train.data.load import load

__all__ = ['Dataset', 'Split', 'load']

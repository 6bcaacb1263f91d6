"""Data sets: uint8 images and labels from any source."""

from train.data.dataset import Dataset
from train.data.dataset import Split
from train.data.dataset import Splits
from train.data.load import load
from train.data.load import of_run
from train.data.load import prepare

__all__ = ['Dataset', 'Split', 'Splits', 'load', 'of_run', 'prepare']

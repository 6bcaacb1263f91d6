"""The records of runs and studies on disk: writing, reading, checks, packing.

schema          the types of each file and their checks
read            readers of the files of a run directory
packed          many runs in a few tables
found           all records below some directories
run, arms       one run; runs that differ only in their seeds
run_directory   the files of a run in progress
ownership       the lock of a run directory
checkpoint      the checkpoints of a run
metrics         the curves as JSON lines and for TensorBoard
weights_and_biases  the curves for Weights & Biases
"""

from train.records.arms import Arm
from train.records.arms import group_into_arms
from train.records.found import Found
from train.records.found import Study
from train.records.found import find
from train.records.run import Run
from train.records.run import Seeds

__all__ = ['Arm', 'Found', 'Run', 'Seeds', 'Study', 'find', 'group_into_arms']

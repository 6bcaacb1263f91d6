"""What is on disk of a run and of a study: written, read, checked, packed.

schema          the types of what is in each file, and the checks
read            the readers of the files of a run directory
packed          many runs in a few tables
found           every record below some directories
run, arms       one run; the runs that differ in their seeds alone
run_directory   the files of a run that is being made
ownership       the one process that may write them
checkpoint      what a run resumes from
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

"""The compiled program of a run.

build.py         the program, which the loop, the sweep, the studies and the
                 benchmarks use
step.py          one training step and one evaluation step
augmentation.py  crop, flip, normalization
optimizers.py    the registry of optimizers
schedules.py     the learning rate of each step
"""

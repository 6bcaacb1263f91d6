"""The compiled program of a run.

build.py         the program: what the loop, the sweep, the studies and the
                 benchmarks call
step.py          one training step and one evaluation step
augmentation.py  crop, flip, normalization
optimizers.py    the register of optimizers
schedules.py     the learning rate of each step
"""

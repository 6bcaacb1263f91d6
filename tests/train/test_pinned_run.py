"""A run computes today what it computed when stage 1 began.

The runs of a preregistered stage take days. What is changed meanwhile must not
change them. The losses were recorded at commit f0456c0, which runs stage 1
(``python -m train run digits-lcam --epochs 2 --seed 3 --convolutions xla``).
They depend on initial parameters, order of the images, crops and flips,
network, schedule, weight decay and LCAM. A checksum of the parameters would
also depend on the processor.
"""

import numpy as np

from tests.train import runs
from train import experiments
from train.records import read

_LOSSES = (
  2.3515925, 2.330289, 2.2630026, 2.2293737, 2.227238, 2.1767774, 2.1929116,
  2.1398969, 2.0581279, 2.0283704, 1.9144905, 1.9612175, 1.8948503, 1.7553358,
  1.727865, 1.7088639, 1.6693673, 1.545793, 1.427758, 1.5517268, 1.6118933,
  1.5573913, 1.4667343,
)  # fmt: skip
# The first losses of the second epoch, and what they select.
_SECOND = (1.4817421, 1.4496508, 1.420726, 1.4910302, 1.3753402)
_MOMENTA = (0.93, 0.93, 0.93, 0.93, 0.9)


def test_the_losses_are_those_of_stage_1(tmp_path):
  config = experiments.get('digits-lcam').planned
  runs.run(tmp_path, config, epochs=2, seed=3, convolutions='xla')
  first, second = read.run(tmp_path).steps
  # Rounding grows from step to step.
  np.testing.assert_allclose(first['loss'][:12], _LOSSES[:12], rtol=1e-5)
  np.testing.assert_allclose(first['loss'], _LOSSES, rtol=1e-3)
  np.testing.assert_allclose(second['loss'][:5], _SECOND, rtol=5e-3)
  assert first['momentum'] == [0.9, *[0.93] * 22]
  assert tuple(second['momentum'][:5]) == _MOMENTA

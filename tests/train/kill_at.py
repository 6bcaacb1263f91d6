"""The program, killed at its N-th access to files of its run directory.

python -m tests.train.kill_at N DIRECTORY ARGUMENTS...

Whatever the moment is, a start with a greater N is killed later: so that kills
visit the few places at which the clock would hardly ever strike.
"""

import itertools
import os
import runpy
import signal
import sys


def _kill_at(number, directory):
  accesses = itertools.count(1)

  def audit(_event, arguments):
    # Only text: what else is a path comes as text in a later event.
    if (
      any(isinstance(x, str) and directory in x for x in arguments)
      and next(accesses) == number
    ):
      os.kill(os.getpid(), signal.SIGKILL)

  sys.addaudithook(audit)


if __name__ == '__main__':
  _, n, path, *rest = sys.argv
  _kill_at(int(n), path)
  sys.argv = ['train', *rest]
  runpy.run_module('train', run_name='__main__', alter_sys=True)

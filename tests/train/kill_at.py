"""Runs the program and kills it when it accesses files of its run directory.

python -m tests.train.kill_at MOMENT DIRECTORY ARGUMENTS...

MOMENT is N for the N-th access, or the name of an audit event, such as
os.rename, for the first event of this kind. A start with a larger N is killed
later, so kills also reach moments that a timer would hardly ever hit.
"""

import itertools
import os
import runpy
import signal
import sys


def kill_at(moment, directory):
  accesses = itertools.count(1)

  def audit(event, arguments):
    if any(
      isinstance(x, str | os.PathLike) and directory in str(x)
      for x in arguments
    ) and moment in (event, str(next(accesses))):
      os.kill(os.getpid(), signal.SIGKILL)

  sys.addaudithook(audit)


if __name__ == '__main__':
  _, when, path, *rest = sys.argv
  kill_at(when, path)
  sys.argv = ['train', *rest]
  runpy.run_module('train', run_name='__main__', alter_sys=True)

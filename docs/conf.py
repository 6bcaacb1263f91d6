"""Configuration of the documentation: `sphinx-build -W docs build/docs`."""

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

_DOCS = pathlib.Path(__file__).parent
_REPOSITORY = _DOCS.parent
sys.path[:0] = [str(_REPOSITORY), str(_DOCS / 'extensions')]

project = 'optax-lcam'
author = 'The optax-lcam authors'
copyright = author
version = release = importlib.metadata.version('optax-lcam')

extensions = [
  'myst_nb',
  'sphinx.ext.autodoc',
  'sphinx.ext.napoleon',
  'sphinx_copybutton',
  'mathml',
]
html_theme = 'furo'
html_title = 'optax-lcam'
html_static_path = ['_static']
html_css_files = ['mathml.css']
html_math_renderer = 'mathml'

myst_enable_extensions = ['dollarmath', 'colon_fence', 'attrs_inline']
myst_heading_anchors = 3
# The notebook is run when the page is made.
nb_execution_mode = 'force'
nb_execution_raise_on_error = True
nb_execution_timeout = 120

autodoc_member_order = 'bysource'
autodoc_typehints = 'none'  # They stand in the signature and in Args.
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# A reference to a name of ours that does not exist is an error. Others' names
# are shown without a link: their sites cannot be asked without a network.
nitpicky = True
nitpick_ignore_regex = [
  (r'py:.*', r'(optax|jax|jnp|nnx|flax|numpy|np|chex)\..*'),
  (r'py:.*', r'(collections|typing|enum)\..*'),
  (r'py:.*', r'(ValueError|TypeError|Literal|NamedTuple|Any|Callable)'),
  (r'py:.*', r"(int|float|bool|str|tuple|list|dict|None|'.*')"),
]
suppress_warnings = ['mystnb.unknown_mime_type']


def _write_experiments(out: pathlib.Path) -> None:
  """The table of experiments, from the experiments themselves."""
  from train import experiments
  from train.report import paper

  lines = [
    '| experiment | what it is | time of one run | published, % |',
    '| --- | --- | --- | --: |',
  ]
  lines += [
    f'| `{e.name}` | {e.summary} | {e.duration} | {paper.published(e) or "–"} |'
    for e in experiments.EXPERIMENTS.values()
    if e.scale in (experiments.OWN, experiments.PAPER)
  ]
  (out / 'experiments.md').write_text('\n'.join(lines) + '\n')


def _copy_from_repository(out: pathlib.Path) -> None:
  """Pages and pictures that have their place elsewhere."""
  for name in ('CONTRIBUTING.md', 'CHANGELOG.md'):
    shutil.copy(_REPOSITORY / name, out / name)
  notebook = _REPOSITORY / 'examples' / 'one_epoch.ipynb'
  shutil.copy(notebook, _DOCS / notebook.name)


def _generate(app: Any) -> None:
  out = _DOCS / '_generated'
  out.mkdir(exist_ok=True)
  _write_experiments(out)
  _copy_from_repository(out)
  # Draws its picture into the working directory.
  subprocess.run(
    [sys.executable, _REPOSITORY / 'examples' / 'plain_optax.py'],
    cwd=out,
    check=True,
    env={**os.environ, 'PYTHONPATH': str(_REPOSITORY), 'MPLBACKEND': 'agg'},
  )


exclude_patterns = ['_generated']


def setup(app: Any) -> None:
  """Called by Sphinx."""
  app.connect('builder-inited', _generate)

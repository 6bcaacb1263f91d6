"""Configuration of the documentation: `sphinx-build -W docs build/docs`."""

import importlib.metadata
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
from typing import Any

_DOCS = pathlib.Path(__file__).parent
_REPOSITORY = _DOCS.parent
sys.path[:0] = [str(_REPOSITORY), str(_DOCS / 'extensions')]

import results_page

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
html_theme_options: dict[str, Any] = {'navigation_with_keys': True}
_pyproject = tomllib.loads((_REPOSITORY / 'pyproject.toml').read_text('utf-8'))
if _address := _pyproject['tool']['hatch']['metadata']['hooks']['custom'][
  'repository'
]:
  html_theme_options |= {
    'source_repository': _address,
    'source_branch': 'HEAD',
    'source_directory': 'docs/',
  }
html_math_renderer = 'mathml'

myst_enable_extensions = ['dollarmath', 'colon_fence', 'attrs_inline']
myst_heading_anchors = 3
# The notebook is run when the page is made.
nb_execution_mode = 'force'
nb_execution_raise_on_error = True
nb_execution_timeout = 120

autodoc_member_order = 'bysource'
autodoc_typehints_format = 'short'
# Signatures show these names, not the unions that they stand for.
autodoc_type_aliases = {
  'jax.typing.ArrayLike': 'ArrayLike',
  'optax.Params': 'optax.Params',
  'optax.Updates': 'optax.Updates',
  'optax.ScalarOrSchedule': 'optax.ScalarOrSchedule',
}
python_use_unqualified_type_names = True
maximum_signature_line_length = 68
napoleon_google_docstring = True
napoleon_numpy_docstring = False

# A reference to a name of ours that does not exist is an error. Others' names
# are shown without a link: their sites cannot be asked without a network.
nitpicky = True
nitpick_ignore_regex = [
  (r'py:.*', r'(optax|jax|jnp|nnx|flax|numpy|np|chex)\..*'),
  (r'py:.*', r'(collections|typing|enum)\..*'),
  (r'py:.*', r'(ArrayLike|Array|TypeAliasForwardRef)'),
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


def _write_results(out: pathlib.Path) -> None:
  """The committed results as a page, and their short answer for the index."""
  results = _REPOSITORY / 'results'
  text = (results / 'README.md').read_text('utf-8')
  answer = f'{results_page.verdict(text)}\n\n{results_page.picture(text)}\n'
  (out / 'verdict.md').write_text(_in_docs(answer))
  (out / 'results.md').write_text(
    _in_docs(text.replace('# Report', '# Results', 1)), 'utf-8'
  )
  shutil.copy(results / 'PREREGISTRATION.md', out / 'PREREGISTRATION.md')
  for path in [*results.glob('*.png'), results / 'report.json']:
    shutil.copy(path, out / path.name)


def _in_docs(text: str) -> str:
  """Text of results/ with links that hold in the documentation."""
  text = text.replace('](PREREGISTRATION.md', '](preregistration.md')
  text = re.sub(r'\]\((\w[\w-]*\.png)\)', r'](_generated/\1)', text)
  return re.sub(
    r'\[([^\]]*)\]\(report\.json\)',
    r'{download}`\1 <_generated/report.json>`',
    text,
  )


def _copy_from_repository(out: pathlib.Path) -> None:
  """Pages and pictures that have their place elsewhere."""
  for name in ('CONTRIBUTING.md', 'CHANGELOG.md'):
    shutil.copy(_REPOSITORY / name, out / name)
  notebook = _REPOSITORY / 'examples' / 'one_epoch.ipynb'
  shutil.copy(notebook, _DOCS / notebook.name)


# Not run for the documentation: it needs CIFAR and a GPU.
_NOT_RUN = {'paper_run.py'}


def _run_examples(out: pathlib.Path) -> None:
  """What each example prints and draws, as the examples page shows it."""
  sources = [*(_REPOSITORY / 'optax_lcam').glob('*.py')]
  for path in sorted((_REPOSITORY / 'examples').glob('*.py')):
    output = out / f'{path.stem}.txt'
    changed = max(source.stat().st_mtime for source in [path, *sources])
    if path.name in _NOT_RUN or (
      output.exists() and output.stat().st_mtime > changed
    ):
      continue
    if 'keras' in path.stem and importlib.util.find_spec('keras') is None:
      output.write_text('Not run here: Keras is not installed.\n')
      continue
    printed = subprocess.run(
      [sys.executable, path],
      cwd=out,  # pictures are written to the working directory
      check=True,
      stdout=subprocess.PIPE,
      text=True,
      env={**os.environ, 'PYTHONPATH': str(_REPOSITORY), 'MPLBACKEND': 'agg'},
    ).stdout
    output.write_text(printed)


def _generate(app: Any) -> None:
  out = _DOCS / '_generated'
  out.mkdir(exist_ok=True)
  _write_experiments(out)
  _write_results(out)
  _copy_from_repository(out)
  _run_examples(out)


def _name_aliases(app: Any, *found: Any) -> tuple[str | None, str | None]:
  """Writes `ArrayLike` for what autodoc calls TypeAliasForwardRef."""
  plain = lambda text: (
    text and re.sub(r"TypeAliasForwardRef\('([\w.]+)'\)", r'\1', text)
  )
  return plain(found[-2]), plain(found[-1])


exclude_patterns = ['_generated']


def setup(app: Any) -> None:
  """Called by Sphinx."""
  app.connect('builder-inited', _generate)
  app.connect('autodoc-process-signature', _name_aliases)

"""Mathematics as MathML, which browsers draw without a script or a network."""

from typing import Any

from docutils import nodes
from docutils.utils.math import latex2mathml


def _inline(translator: Any, node: nodes.math) -> None:
  translator.body.append(latex2mathml.tex2mathml(node.astext()))
  raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
  translator.body.append(
    f'<div class="math">'
    f'{latex2mathml.tex2mathml(node.astext(), as_block=True)}</div>\n'
  )
  raise nodes.SkipNode


def setup(app: Any) -> dict[str, Any]:
  """Called by Sphinx."""
  app.add_html_math_renderer('mathml', (_inline, None), (_block, None))
  return {'parallel_read_safe': True, 'parallel_write_safe': True}

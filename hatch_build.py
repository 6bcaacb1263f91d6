"""Metadata of the package that depends on the address of the repository.

The README links to files of the repository, which a package index does not
have. `repository` in `[tool.hatch.metadata.hooks.custom]` of pyproject.toml is
the one place for the address: with it, the links of the published README are
absolute. Without it they become plain text, and pictures are left out.
"""

import pathlib
import re
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r'(!?)\[([^\]]*)\]\((?!https?:|#)([^)]+)\)')


def published(readme: str, repository: str) -> str:
  """The README with links that work outside the repository."""

  def link(found: re.Match[str]) -> str:
    is_picture, text, path = found.groups()
    if not repository:
      return '' if is_picture else text
    kind = 'raw' if is_picture else 'tree' if path.endswith('/') else 'blob'
    return f'{is_picture}[{text}]({repository}/{kind}/HEAD/{path})'

  return _LINK.sub(link, readme)


class MetadataHook(MetadataHookInterface):
  """Sets the dynamic fields `readme` and `urls`."""

  def update(self, metadata: dict[str, Any]) -> None:
    """Called by Hatchling."""
    repository = self.config.get('repository', '').rstrip('/')
    readme = (pathlib.Path(self.root) / 'README.md').read_text('utf-8')
    metadata['readme'] = {
      'content-type': 'text/markdown',
      'text': published(readme, repository),
    }
    metadata['urls'] = dict(self.config.get('urls', {}))
    if repository:
      metadata['urls'] |= {
        'Repository': repository,
        'Changelog': f'{repository}/blob/HEAD/CHANGELOG.md',
      }

"""Names from records, in a form that can do no harm where they are shown."""

import re


def markdown(text: str) -> str:
  r"""A text on one line, in which no character is Markdown or HTML.

  Example:
    >>> markdown('a|b\n# <c>')
    'a\\|b # \\<c\\>'
  """
  return re.sub(r'[\\`*|<>\[\]]', r'\\\g<0>', _line(text))


def label(text: str) -> str:
  r"""A text on one line, in which no character is Matplotlib's mathematics.

  Example:
    >>> label('a $ a step')
    'a \\$ a step'
  """
  return _line(text).replace('$', r'\$')


def file_name(text: str) -> str:
  """A part of the name of a file, which leads out of no folder.

  Example:
    >>> file_name('../../cifar10')
    'cifar10'
  """
  return re.sub(r'[^A-Za-z0-9._-]+', '', text).lstrip('.-') or 'unnamed'


def _line(text: str) -> str:
  """Printable characters, and blanks for the others."""
  try:
    # As Python reads the name of a file in a locale that lacks its characters.
    text = text.encode(errors='surrogateescape').decode(errors='replace')
  except UnicodeEncodeError:
    text = text.encode(errors='backslashreplace').decode()
  return ''.join(c if c.isprintable() else ' ' for c in text)

"""Escapes names from records for Markdown, Matplotlib and file names."""

import re


def markdown(text: str) -> str:
  r"""Escapes Markdown and HTML in a text, on one line.

  Example:
    >>> markdown('a|b\n# <c>')
    'a\\|b # \\<c\\>'
  """
  return re.sub(r'[\\`*|<>\[\]]', r'\\\g<0>', _line(text))


def label(text: str) -> str:
  r"""Escapes Matplotlib mathematics in a text, on one line.

  Example:
    >>> label('a $ a step')
    'a \\$ a step'
  """
  return _line(text).replace('$', r'\$')


def file_name(text: str) -> str:
  """A safe part of a file name, without folders.

  Example:
    >>> file_name('../../cifar10')
    'cifar10'
  """
  return re.sub(r'[^A-Za-z0-9._-]+', '', text).lstrip('.-') or 'unnamed'


def _line(text: str) -> str:
  """Replaces characters that are not printable by blanks."""
  try:
    # Surrogates of file names that are not valid in the locale.
    text = text.encode(errors='surrogateescape').decode(errors='replace')
  except UnicodeEncodeError:
    text = text.encode(errors='backslashreplace').decode()
  return ''.join(c if c.isprintable() else ' ' for c in text)

"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """Writes a table whose columns also line up as plain text.

  Args:
    head: Names of the columns, escaped (:func:`train.safe.markdown`).
    rows: The cells of each row. The first is a name, the others are numbers.

  Returns:
    The table.

  Example:
    >>> print(table(['arm', 'error %'], [['lcam', '4.1'], ['adam', '12.0']]))
    | arm  | error % |
    | ---- | ------: |
    | lcam |     4.1 |
    | adam |    12.0 |
  """
  rows = list(rows)
  lines = [head, *rows]
  widths = [max(3, *(len(row[i]) for row in lines)) for i in range(len(head))]

  def line(cells: Sequence[str]) -> str:
    padded = [
      # Names are left-aligned, numbers right-aligned.
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f'| {" | ".join(padded)} |'

  rule = [
    '-' * width if i == 0 else '-' * (width - 1) + ':'
    for i, width in enumerate(widths)
  ]
  return '\n'.join(line(row) for row in [head, rule, *rows])

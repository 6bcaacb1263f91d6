"""What is measured besides runs: traction, movement and probes."""

from collections.abc import Callable, Iterable
import itertools
import pathlib
from typing import Any

from train.records import Study
from train.report import safe


def describe_all(
  found: Iterable[Study], out: pathlib.Path, left_out: list[str]
) -> list[str]:
  """The paragraphs on all studies, whose pictures are drawn into a folder.

  Args:
    found: The studies, in the order of the report.
    out: The folder.
    left_out: Gets a sentence on each study that could not be drawn.

  Raises:
    OSError: A picture cannot be written.
  """
  paragraphs: list[str] = []
  taken: set[str] = set()
  for study in found:
    try:
      paragraphs += describe(study, out, taken)
    # What a record must be for all that a picture needs is known to Matplotlib
    # alone.
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
      reason = ' '.join(str(error).split())
      left_out.append(
        f'{study.path} cannot be drawn: {type(error).__name__}, {reason}.'
      )
  return ['## The explanations', *paragraphs] if paragraphs else []


def describe(study: Study, out: pathlib.Path, taken: set[str]) -> list[str]:
  """The paragraphs on a study. Its picture is drawn into ``out``.

  Args:
    study: The study.
    out: The folder.
    taken: Names of pictures that there are; gets that of this one.
  """
  # These modules make use of the report's statistics and styles.
  from train.studies import movement
  from train.studies import probe
  from train.studies import traction_figure

  record = study.record
  draw: Callable[[dict[str, Any], pathlib.Path], None]
  match study.kind:
    case 'traction':
      title = 'Figure 1: the traction model, simulated'
      text = (
        'A quick and a slow weight on a noisy quadratic valley,'
        f' {record["settings"]["seeds"]:,} seeds'
        ' (`python -m train traction`).'
      )
      name, draw = 'figure1', traction_figure.draw
    case 'movement':
      datasets = record['settings']['datasets']
      networks = safe.markdown(', '.join(record['settings']['networks']))
      title = f'Traction in trained networks: {", ".join(datasets)}'
      text = (
        f'{len(record["runs"])} trained networks'
        f' ({networks}), trained on for {record["settings"]["epochs"]} epochs'
        ' (`python -m train movement RUN...`).'
      )
      name, draw = f'movement-{"-".join(datasets)}', movement.draw
    case _:
      title = f'Section 4.4: what kind of data set is {record["dataset"]}?'
      text = (
        f'{safe.markdown(record["answer"] or "unknown")}, by'
        f' {record["settings"]["train_examples"]:,} training images and'
        f' {record["validation_examples"]:,} others held out'
        f' (`python -m train probe --dataset'
        f' {safe.file_name(record["dataset"])}`).'
      )
      name, draw = f'probe-{record["dataset"]}', probe.draw
  sentences = (
    [record['sentence']]
    if study.kind == 'probe'
    else [claim['sentence'] for claim in record['claims']]
  )
  stem = picture = safe.file_name(name)
  for i in itertools.count(2):
    if picture not in taken:
      break
    picture = f'{stem}-{i}'
  taken.add(picture)
  draw(record, out / f'{picture}.png')
  title = safe.markdown(title)
  return [
    f'### {title}',
    text,
    '\n'.join(f'- {safe.markdown(sentence)}' for sentence in sentences),
    f'![{title}]({picture}.png)',
  ]

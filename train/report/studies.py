"""What is measured besides runs: traction, movement and probes."""

from collections.abc import Callable, Iterable
import dataclasses
import pathlib
from typing import Any

from train import run_directory


@dataclasses.dataclass(frozen=True)
class Study:
  """A record of one of these programs."""

  kind: str
  """traction, movement or probe."""
  record: dict[str, Any]


def find(directories: Iterable[pathlib.Path]) -> list[Study]:
  """Every record in or below the directories, in the order of the report.

  Raises:
    UsageError: A record cannot be read.
  """
  directories = list(directories)
  return [
    Study(kind, run_directory.read_json(path))
    for kind in ('traction', 'movement', 'probe')
    for directory in directories
    for path in sorted(directory.rglob(f'{kind}.json'))
  ]


def describe(study: Study, out: pathlib.Path) -> list[str]:
  """The paragraphs on a study. Its picture is drawn into ``out``."""
  # These modules make use of the report's statistics and styles.
  from train.studies import movement
  from train.studies import probe
  from train.studies import traction_figure

  record = study.record
  draw: Callable[[dict[str, Any], pathlib.Path], None]
  match study.kind:
    case 'traction':
      title = 'Figure 1: the traction model, simulated'
      words = (
        'A quick and a slow weight on a noisy quadratic valley,'
        f' {record["settings"]["seeds"]:,} seeds'
        ' (`python -m train traction`).'
      )
      name, draw = 'figure1', traction_figure.draw
    case 'movement':
      datasets = record['settings']['datasets']
      title = f'Traction in trained networks: {", ".join(datasets)}'
      words = (
        f'{len(record["runs"])} trained networks'
        f' ({", ".join(record["settings"]["networks"])}), trained on for'
        f' {record["settings"]["epochs"]} epochs'
        ' (`python -m train movement RUN...`).'
      )
      name, draw = f'movement-{"-".join(datasets)}', movement.draw
    case _:
      title = f'Section 4.4: what kind of data set is {record["dataset"]}?'
      words = (
        f'{record["answer"] or "unknown"}, by'
        f' {record["settings"]["train_examples"]:,} training images and'
        f' {record["validation_examples"]:,} others held out'
        f' (`python -m train probe --dataset {record["dataset"]}`).'
      )
      name, draw = f'probe-{record["dataset"]}', probe.draw
  sentences = [claim['sentence'] for claim in record.get('claims', ())] or [
    record['sentence']
  ]
  draw(record, out / f'{name}.png')
  return [
    f'### {title}',
    words,
    '\n'.join(f'- {sentence}' for sentence in sentences),
    f'![{title}]({name}.png)',
  ]

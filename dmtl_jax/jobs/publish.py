"""The job `--mode=publish`: a run on the Hugging Face Hub, which others load by its address hf://OWNER/RUN."""

import pathlib
import re
import shutil
import tempfile

from huggingface_hub import constants
from ml_collections import ConfigDict

from dmtl_jax.basics import files
from dmtl_jax.basics.errors import sanitize, UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.configs.fields import all_fields, flat
from dmtl_jax.inference import calibration
from dmtl_jax.jobs import convert
from dmtl_jax.report.card import render_card
from dmtl_jax.report.reading import read_evaluation, read_images, read_step_evaluations
from dmtl_jax.report.results import read_run
from dmtl_jax.runs import hub, pretrained
from dmtl_jax.runs import workdir as workdir_lib

LICENSES = 'apache-2.0, mit, cc-by-4.0, cc-by-nc-4.0 or other'
DATA_PLACES = ('data.dir', 'data.raw')  # paths that say nothing about a run; published as their defaults


def run(workdir: str, to: str, license: str | None, private: bool = False, step: str = 'best') -> str:
  """The job `--mode=publish`: uploads a run's weights and scores with a card, in one commit; prints the address last.

  Args:
    to: OWNER/RUN; made if it is not there. Of a run that is there the files are replaced.
    license: as the Hub writes it, see `LICENSES`.
    private: whether only the owner may read it.
    step: checkpoint: 'best', 'latest' or a step.

  Returns:
    The address of the page.

  Raises:
    UserError: no license, no run, scores of another checkpoint, or see `hub.upload`.
  """
  repo = hub.parse(to).repo
  if '@' in to:
    raise UserError(f'--to={sanitize(to)}: a run is published as its newest commit; write --to={repo}')
  if not license:
    raise UserError(f'--license: say what others may do with the weights: {LICENSES}')
  if not re.fullmatch(r'[a-z0-9][a-z0-9.-]{1,63}', license):
    raise UserError(f"--license: '{sanitize(license)}' is not a license as the Hub writes them: {LICENSES}")
  hub.check_folder('--workdir', workdir)
  with tempfile.TemporaryDirectory() as temporary:
    folder = pathlib.Path(temporary) / 'run'
    number = write(workdir_lib.resolve_run(workdir), folder, repo, license, step)
    visibility = 'private' if private else 'public unless it is private there already'
    say(f'to {hub.SCHEME}{repo}, {visibility}, license {license}:\n{describe(folder)}')
    commit = hub.upload(folder, repo, private, f'Step {number} of a run of dmtl_jax')
  say(f"in Python: dmtl_jax.load('{hub.SCHEME}{repo}'), for good dmtl_jax.load('{hub.SCHEME}{repo}@{commit}')")
  url = f'{constants.ENDPOINT}/{repo}'
  say(url)
  return url


def write(workdir: pathlib.Path, folder: pathlib.Path, repo: str, license: str, step: str) -> int:
  """Writes what is uploaded to `folder`; returns the step of the weights.

  Raises:
    UserError: no run there, or its scores are of another checkpoint.
  """
  config, tasks = workdir_lib.read_config(workdir), workdir_lib.read_tasks(workdir)
  evaluation = read_evaluation(workdir / 'metrics.json')
  variables, number = convert.light_variables(workdir, config, tasks, step)
  if evaluation and evaluation.step != number:
    raise UserError(
      f'{workdir}/metrics.json: scores of step {evaluation.step}, but the weights are of step {number}; '
      f'--step={evaluation.step} publishes those, --mode=evaluate --workdir={workdir} --step={number} scores these'
    )
  convert.write_run(folder, without_paths(config), tasks, variables, number)
  for path in folder.rglob('commit_success.txt'):
    path.write_text('Checkpoint commit was successful\n', encoding='utf-8')  # Orbax writes the path on this machine
  if evaluation:
    steps = [s for s, scores in read_step_evaluations(workdir).items() if scores.step == number]
    for name in ('metrics.json', 'confusion.json', 'cost.json', *(f'metrics_{s}.json' for s in steps)):
      if (workdir / name).exists():
        shutil.copyfile(workdir / name, folder / name)
  fitted = calibration.read(workdir)
  is_own = fitted is not None and fitted.step == number
  if is_own:  # it also says which tasks are predicted by their initial maps
    shutil.copyfile(workdir / calibration.NAME, folder / calibration.NAME)
  panel = evaluation and find_panel(workdir)
  if panel:
    shutil.copyfile(panel, folder / hub.PANEL)
  card = render_card(read_run(folder), repo, license, number, bool(panel), is_own and bool(fitted.tasks))
  (folder / hub.CARD).write_text(card, encoding='utf-8')
  return number


def without_paths(config: ConfigDict) -> ConfigDict:
  """A copy without paths of this machine: 'photos' for '/home/me/photos'."""
  config = config.copy_and_resolve_references()
  fields = dict(flat(all_fields()))
  for path, value in flat(config.to_dict()):
    field = fields.get(path)
    if field is None or not field.is_path or pretrained.is_on_hub(str(value)):
      continue
    section, _, name = path.rpartition('.')
    last = pathlib.Path(value).name
    own = field.default if path in DATA_PLACES else '' if last == pathlib.Path.home().name else last
    (config[section] if section else config)[name] = own
  return config


def find_panel(workdir: pathlib.Path) -> pathlib.Path | None:
  """The picture of the first validation image, with its labels and all maps."""
  images = [image for image in read_images(workdir / 'panels' / 'index.json') if files.is_id(image.id)]
  return next((path for image in images if (path := workdir / 'panels' / f'{image.id}.png').is_file()), None)


def describe(folder: pathlib.Path) -> str:
  """A line for every file with its size, the checkpoint's as one."""
  sizes = {}
  for path in sorted(path for path in folder.rglob('*') if path.is_file()):
    parts = path.relative_to(folder).parts
    name = '/'.join(parts[:2]) if parts[0] == 'checkpoints' else parts[0]
    sizes[name] = sizes.get(name, 0) + path.stat().st_size
  notes = {hub.PANEL: '  (a validation image with its labels)'}
  return '\n'.join(f'  {size / 1e6:9.3f} MB  {name}{notes.get(name, "")}' for name, size in sizes.items())

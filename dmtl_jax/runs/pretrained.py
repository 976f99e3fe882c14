"""Weights from elsewhere: ImageNet encoders, the authors' checkpoints, runs of ours.

`load` does the work of `--config.init_from=SOURCE`; jobs/convert.py turns a released checkpoint into a run.

The tables below map our names to PyTorch's. Each of our arrays gets a view in PyTorch's layout under its
PyTorch name; a checkpoint is converted by filling the views.
"""

from collections.abc import Iterable, Sequence
import os
import pathlib
import re

import jax
import numpy as np
import safetensors
import safetensors.numpy

from dmtl_jax.basics import download, torch_file
from dmtl_jax.basics.errors import sanitize, UserError
from dmtl_jax.basics.progress import say
from dmtl_jax.models.parts.task_layers import Slots
from dmtl_jax.runs import checkpoints, hub, transfer
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.tasks import Task

ENCODER = re.compile(r'timm/resnet(18|50)\.[\w.-]+(@[\w./-]+)?', re.ASCII)  # on the Hugging Face Hub
# torchvision's ImageNet weights (V1) there: revision, and sha256 of model.safetensors.
HUB = {
  'timm/resnet18.tv_in1k': (
    'bbd144b3e5565108aad885f145491d11bc6ce807',
    '694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81',
  ),
  'timm/resnet50.tv_in1k': (
    '78f3ecfdb38e06d9b8397f662e7ab8fee96026fa',
    '5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888',
  ),
}
RELEASED_CONFIG = 'configs/pascal.py:method=feature,preset=released'
# The released model's tasks in its order, by kind.
RELEASED_TASKS = {
    'semseg': 'semseg', 'parsing': 'human_parts', 'saliency': 'sal', 'normals': 'normals', 'boundary': 'edge'
}  # fmt: skip
ARRAYS = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}
# Our module -> torchvision's.
TORCHVISION_MODULES = (
  (r'layer(\d)_(\d+)', r'layer\1.\2'),
  (r'downsample_conv', 'downsample.0'),
  (r'downsample_bn', 'downsample.1'),
)
# Our module -> the released code's: <TASK> is the name of one task, * stands for each task of a stacked array.
DENOISER = 'diffusion_model.denoiser'
RELEASED_MODULES = (
  (r'^backbone/encoder', 'backbone'),
  (r'^backbone/reduce', 'backbone_embed'),
  (r'^decoders/(.+)_block(\d)', r'preliminary_dec.<\1>.\2'),
  (r'^decoders/(.+)_head', r'preliminary_head.<\1>.0'),
  (r'^conditioning/fuse', 'diffusion_model.pred_combinator.out_layer'),
  (r'^denoiser/block(\d)', rf'{DENOISER}.crossblocks.\1'),
  (r'/norm_q$', '.norm1'),
  (r'/norm_mlp$', '.norm2'),
  (r'/norm_mlp_kv$', '.norm2_kv'),
  (r'/norm_kv$', '.norm_kv'),
  (r'^denoiser/embed', f'{DENOISER}.pre_layer.*'),
  (r'^denoiser/heads/conv0', f'{DENOISER}.task_heads.*.0'),
  (r'^denoiser/heads/conv1', f'{DENOISER}.task_heads.*.1'),
  (r'^denoiser/heads/conv2', f'{DENOISER}.task_heads.*.3'),
  (r'^denoiser/heads/conv3', f'{DENOISER}.task_heads.*.5'),
  (r'^denoiser/step_embed/fc1', f'{DENOISER}.t_embedder.mlp.0'),
  (r'^denoiser/step_embed/fc2', f'{DENOISER}.t_embedder.mlp.2'),
  (r'^head', f'{DENOISER}.final_task_heads.*.linear_pred'),
)
# Entries without a counterpart: torchvision's classifier, BatchNorm's counters, tables of the noise schedule.
IGNORED = re.compile(
  r'fc\.(weight|bias)|(.*\.)?(num_batches_tracked|betas|alphas_cumprod|alphas_cumprod_prev|lvlb_weights|logvar'
  r'|(sqrt|log)_\w*alphas_cumprod|posterior_(variance|log_variance_clipped|mean_coef1|mean_coef2))'
)

Views = dict[str, list[np.ndarray]]


def load(source: str, variables: dict, tasks: tuple[Task, ...]) -> dict:
  """Loads the variables to start from.

  Args:
    source: timm/resnet18.* or timm/resnet50.* of the Hub, such as 'timm/resnet18.tv_in1k' (downloaded
      once, checked), a .safetensors or .pth file of a torchvision ResNet or of a released checkpoint,
      or a run of ours (see `workdir.find_run`), of whose best checkpoint the parts that fit are taken.
    variables: the network's own; an encoder file replaces only its encoders.

  Returns:
    Variables of the same structure, numpy.

  Raises:
    UserError: the source is not there, cannot be read, or does not fit the network.
  """
  if folder := workdir_lib.find_run(source):
    started = transfer.load(folder, variables, tasks)
    say(f'{source}: {started.describe()}')
    return started.variables
  state = read_state(resolve(source))
  if is_released(state):
    return load_released(state, variables, tasks, source)
  return load_torchvision(state, variables, source)


def check(source: str):
  """Raises UserError if `load` could not start from a source; downloads a file of the hub to find out."""
  folder = workdir_lib.find_run(source)
  if not folder:
    resolve(source)
  elif not ((folder / 'tasks.json').is_file() and any(checkpoints.folder(folder).glob('[0-9]*'))):
    raise UserError(
      f"config.init_from: the folder '{sanitize(source)}' is of no run: no tasks.json and checkpoints; "
      f'give the --workdir of a trained run, or a file'
    )


def resolve(source: str) -> pathlib.Path:
  """The file of a source: a path itself, or for a name of the Hub (`ENCODER`) the cached file, downloaded if missing.

  Raises UserError if there is no such file, or the Hub does not deliver the one whose sha256 is known.
  """
  if not ENCODER.fullmatch(source):
    if not os.path.isfile(source):
      raise UserError(
        f"'{sanitize(source)}': no such file, and not on the Hub: timm/resnet18.NAME, timm/resnet50.NAME or "
        f'hf://OWNER/RUN'
      )
    return pathlib.Path(source)
  address = hub.parse(source)
  revision, sha256 = HUB.get(source, (address.revision, ''))
  try:
    path = hub.download_file(hub.Address(address.repo, revision), 'model.safetensors')
  except UserError as error:
    raise UserError(f'{source}: no download ({error}); or give the path of its model.safetensors') from error
  if sha256:
    download.check(path, sha256)
  else:
    say(f'{source}: commit {path.parent.name}, sha256 {download.digest(path)}')
  return path


def is_on_hub(source: str) -> bool:
  """Whether a source is an encoder or a run on the Hub, not a path."""
  return hub.is_address(source) or bool(ENCODER.fullmatch(source))


def pin(source: str, before: str = '') -> str:
  """A source of the Hub with its commit, 'hf://OWNER/RUN@COMMIT', so that it never changes; any other as it is.

  Args:
    before: the source of an earlier start of the run, whose commit is kept if it is of the same repository.

  Raises:
    UserError: see `hub.find_commit`.
  """
  if not is_on_hub(source) or source in HUB:
    return source
  address = hub.parse(source)
  name = source.partition('@')[0]
  commit = before.removeprefix(f'{name}@')
  if re.fullmatch('[0-9a-f]{40}', commit) and not re.fullmatch('[0-9a-f]{40}', address.revision):
    return before
  return f'{name}@{hub.find_commit(address, "config.json" if hub.is_address(source) else "model.safetensors")}'


def read_state(path: pathlib.Path) -> dict:
  """{PyTorch name: array} from a .safetensors file, or from a .pth file of it or of {'model': it}.

  Drops the prefix `module.` of models trained on several GPUs. Raises UserError for any other file.
  """
  if path.suffix == '.safetensors':
    try:
      state = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
      # KeyError or TypeError for dtypes that numpy does not have.
      raise UserError(
        f'{path}: damaged or not a safetensors file ({sanitize(str(error))}); download it again'
      ) from error
  else:
    state = torch_file.load(path)
    state = state.get('model', state) if isinstance(state, dict) else state
  if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
    raise UserError(f"{path}: holds neither named weights nor a 'model' with them")
  return {name.removeprefix('module.'): value for name, value in state.items()}


def is_released(state: dict) -> bool:
  """Whether the names are those of the released code, not torchvision's."""
  return any(name.startswith(('backbone.', 'diffusion_model.')) for name in state)


def load_torchvision(state: dict, variables: dict, source: str) -> dict:
  """Fills every encoder from torchvision's names; the other variables stay unchanged."""
  variables = jax.tree.map(np.array, variables)
  fill(torchvision_views(variables), state, source)
  return variables


def load_released(state: dict, variables: dict, tasks: tuple[Task, ...], source: str) -> dict:
  """Fills the variables of `method=feature` from the released code's names.

  Raises:
    UserError: another method, other tasks than PASCAL's five in the released order, or entries that do not fit.
  """
  if not {'denoiser', 'head'} <= variables['params'].keys():
    raise UserError(f'{source}: a released checkpoint is Feature Diffusion; use method=feature,preset=released')
  if tuple(task.kind for task in tasks) != tuple(RELEASED_TASKS):
    raise UserError(f'{source}: a released checkpoint is of the tasks {", ".join(RELEASED_TASKS)}, in this order')
  variables = jax.tree.map(np.array, variables)
  fill(released_views(variables, tasks), state, source)
  return variables


def torchvision_views(variables: dict) -> Views:
  """The arrays of all encoders under torchvision's names, with one view per encoder of the network."""
  views = {}
  for module, kind, array in _named_arrays(variables):
    prefix, encoder, inside = module.rpartition('encoder/')
    if encoder and prefix.endswith('backbone/'):
      name = f'{_rename(inside, TORCHVISION_MODULES)}.{ARRAYS[kind]}'
      views.setdefault(name, []).append(_in_torch_layout(array))
  return views


def released_views(variables: dict, tasks: tuple[Task, ...]) -> Views:
  """All arrays of Feature Diffusion under the released code's names."""
  names = {task.name: RELEASED_TASKS[task.kind] for task in tasks}
  return views_by_task(variables, tasks, RELEASED_MODULES + TORCHVISION_MODULES, names)


def views_by_task(variables: dict, tasks: tuple[Task, ...], modules: Sequence[tuple], names: dict[str, str]) -> Views:
  """All arrays of DiffusionMTL under the names of a PyTorch network with one module per task.

  Args:
    modules: our module -> PyTorch's, see `RELEASED_MODULES`.
    names: {task: its name in PyTorch}.
  """
  slots = Slots(tuple(task.channels for task in tasks))
  views = {}
  for module, kind, array in _named_arrays(variables):
    name = f'{_rename(module, modules)}.{ARRAYS[kind]}'
    name = re.sub('<(.+)>', lambda match: names[match[1]], name)
    if '*' not in name:
      views[name] = [_in_torch_layout(array)]
      continue
    for t, task in enumerate(tasks):
      if module in ('head', 'denoiser/predict'):  # 1x1 convolutions [C, sum of C_t] lie side by side
        part = array[None, None, :, slots.channel_slice(t)] if kind == 'kernel' else array[slots.channel_slice(t)]
      elif module == 'denoiser/embed' and array.ndim == 4:  # so do those [3, 3, sum of C_t, C] of predictions
        part = array[:, :, slots.channel_slice(t)]
      else:
        part = array[t]
      views[name.replace('*', names[task.name])] = [_in_torch_layout(part)]
  return views


def _named_arrays(variables: dict) -> Iterable[tuple[str, str, np.ndarray]]:
  """Yields (path of the module, name of the array, array) for all variables."""
  for path, array in jax.tree_util.tree_flatten_with_path(variables)[0]:
    _, *module, kind = [key.key for key in path]
    yield '/'.join(module), kind, array


def _rename(module: str, rules) -> str:
  for ours, theirs in rules:
    module = re.sub(ours, theirs, module)
  return module.replace('/', '.')


def _in_torch_layout(array: np.ndarray) -> np.ndarray:
  """A view of a convolution's kernel HWIO as OIHW, or of a linear layer's [in, out] as [out, in]."""
  return array.T.swapaxes(-1, -2) if array.ndim == 4 else array.T


def fill(views: Views, state: dict, source: str):
  """Writes a PyTorch state into the views; raises UserError with what is missing, unknown or of another shape."""
  state = {name: value for name, value in state.items() if not IGNORED.fullmatch(name)}
  shapes = {name: getattr(value, 'shape', type(value).__name__) for name, value in state.items()}
  problems = {
    'missing': [name for name in views if name not in state],
    'unknown': [name for name in state if name not in views],
    'of another shape': [
      f'{name} {shapes[name]}, here {parts[0].shape}'
      for name, parts in views.items()
      if name in state and shapes[name] != parts[0].shape
    ],
  }
  if any(problems.values()):
    reasons = [
      f'{len(names)} {what}: {", ".join(map(sanitize, names[:10]))}{", ..." if len(names) > 10 else ""}'
      for what, names in problems.items()
      if names
    ]
    raise UserError(
      f'{source} does not fit this network ({"; ".join(reasons)}); check backbone, method, preset of --config'
    )
  for name, parts in views.items():
    for part in parts:
      part[...] = state[name]

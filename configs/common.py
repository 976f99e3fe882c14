"""What all configs share: the argument string and the defaults of every field.

A config string is `configs/NAME.py:key=value,key=value`. Keys:

  method     prediction (default) | feature | no_diffusion | no_condition (ablations of Prediction
             Diffusion) | single_task | mtl_baseline | ss | xtc | mti_net | invpt | one of your own
             (models/base.py) that your config file imports
  labels     one (default) | random | full | PATH of a mapping (CSV, JSON or the official .pth)
  backbone   resnet18 (default) | resnet50
  diffusion_steps  S (default 2)
  condition  what Multi-Task Conditioning is made of: predictions (default; one convolution per task, then
             fused) | concat (default of feature; one convolution over all predictions: not the paper's
             text, but the released code, and the only one of the size in the paper's table) | features
             (initial features: the paper's text on Feature Diffusion)
  preset     paper (default; but for the condition of feature, see there) | released (what the authors'
             code does, docs/paper.md)

Any other field is a flag: `--config.optim.lr=1e-4`.
"""

import importlib
import importlib.util

from ml_collections import ConfigDict

from dmtl_jax.basics.errors import sanitize, unknown_value_error
from dmtl_jax.models import find, METHODS

ARGUMENTS = dict(
  method='prediction', labels='one', backbone='resnet18', diffusion_steps=2, condition='', preset='paper'
)
PRESETS = ('paper', 'released')


def parse(arg: str | None) -> dict:
  """'method=feature,diffusion_steps=3' to {'method': 'feature', 'diffusion_steps': 3, ...} with all defaults.

  Raises:
    ValueError: an unknown key, a part without '=', or a value of the wrong type.
  """
  values: dict = dict(ARGUMENTS)
  for part in filter(None, map(str.strip, (arg or '').split(','))):
    key, equals, value = part.partition('=')
    if not equals or key not in ARGUMENTS:
      raise unknown_value_error('config string', part, [f'{name}=' for name in ARGUMENTS])
    try:
      values[key] = type(ARGUMENTS[key])(value)
    except ValueError:
      raise ValueError(f"config string: {key} takes a whole number, got '{sanitize(value)}'") from None
  if values['preset'] not in PRESETS:
    raise unknown_value_error('config string: preset', values['preset'], PRESETS)
  return values


def base(arg: str | None) -> ConfigDict:
  """Defaults of every field, with the config string applied. Data sets change what differs."""
  a = parse(arg)
  method = find(a['method'])
  model = dict(
    backbone=a['backbone'],  # of the encoder: resnet18, resnet50
    width=64,  # stem channels of the encoder; 64 is the published ResNet
    channels=512,  # C, of the maps inside the network
    diffusion_steps=a['diffusion_steps'],  # S, denoising steps
    depth=4,  # attention blocks of the denoiser
    heads=1,  # of the attention
    token_stride=4,  # places of a map, in each direction, that a token of the attention stands for
    condition='predictions',  # what it is made of: predictions, concat, features, none
    stop_condition=False,  # no gradient through the condition
    posterior=False,  # between steps draw from the DDPM posterior, instead of passing the map on
    add_noise=True,  # False: the ablation without diffusion
    step_offset=0,  # the step that is embedded is s - step_offset
    initial_weights='paper',  # of the denoiser; released: as the authors' code; identity: it returns what it is given
  )
  if a['preset'] == 'released':
    model |= dict(heads=4, stop_condition=True, posterior=True, step_offset=1, initial_weights='released')
  model |= dict(method.defaults) | ({'condition': a['condition']} if a['condition'] else {})
  model |= {name: value for name, value in method.fixed.items() if name in model}
  return ConfigDict(
    dict(
      method=method.name,  # which network with which loss, as in the config string
      seed=0,  # of weights, noise and the order of images
      dtype='float32',  # of activations: bfloat16, or float16 with scaled losses; parameters and maps are float32
      init_from='',  # encoder or whole weights to start from
      model=model,
      data=dict(
        name='',  # folder in datasets/
        tasks=(),  # names of the tasks to learn, in this order (a run keeps its own); (): all
        labels=a['labels'],  # which may be seen: one, random, full, or a file that maps images to tasks
        label_seed=0,  # of labels that are drawn, where the benchmark has no mapping
        holdout_fraction=0.0,  # share of the training images to score instead of validation, and not to train on
        size=(512, 512),  # height and width that the network sees
        augment='none',  # pascal, mtan (crop and resize back), light (crop, scale, colours), none
        workers=0,  # processes that load images; 0: threads of this one
        threads=2,  # that load images, of each worker
        prefetch=4,  # batches
      ),
      train=dict(
        batch=8,  # images of a step, on all devices together
        accumulate=1,  # micro-batches that a batch is cut into, one after the other
        fsdp=1,  # devices that share one copy of parameters and optimiser state
        steps=0,  # 0: from epochs
        epochs=100,  # passes over the training images
        remat=False,  # recompute activations for the gradient instead of keeping them
        log_every=20,  # steps
        eval_every=0,  # steps; 0: ten times a run
        save_every=0,  # steps; 0: at evaluations
        eval_images=0,  # images of a periodic evaluation; 0: all
        keep=2,  # latest checkpoints, at least one; the best one is kept besides
        keep_every=0,  # and those of every so many steps; 0: none
        best_by='delta_m',  # against eval.single_task (without: wins at more tasks), or TASK/METRIC
        nan_policy='stop',  # or skip: steps whose loss or gradient is not finite
      ),
      eval=dict(
        batch=8,  # images, on all devices together
        diffusion_steps=0,  # S at inference; 0: as in training
        panels=6,  # pictures to write
        protocol='plain',  # how scores are defined: as usual, or as the code of a benchmark does: pascal, mtpsl
        resolution='input',  # where final scores are taken: at data.size, or image: at each image's size, as predicted
        boundary_side=640,  # of resolution=image: longer side at which boundaries are scored, at most; 0: any
        weights='best',  # the checkpoint to score: best (of the periodic evaluations), or latest
        geometry='fit',  # images are scaled to fit data.size; pad: only padded, never enlarged
        workers=0,  # processes that score images; 0: this one
        boundary_tolerance=0.0075,  # of the diagonal
        single_task=dict(),  # {task or kind: single-task run's headline score}, for Delta_m: single_task.depth=0.0125
      ),
      optim=dict(
        name='adam',  # adamw, sgd (momentum 0.9)
        lr=2e-5,  # learning rate at its highest
        part_lr=dict(),  # {part of the network (`Network.part`): another rate than lr}
        denoiser_fan_in=0,  # above it, a kernel of the denoiser learns at a rate as much lower; 0: at lr
        schedule='poly',  # cosine, constant
        l2=1e-6,  # weight decay: a part of the gradient (torch's), of adamw a part of the update
        clip=10.0,  # norm of the whole gradient; 1e12: never
        warmup=0,  # steps
      ),
      loss_weights=dict(),  # {task or kind: weight of its loss}; a task's name goes first, and 1 where neither is there
      initial_loss=method.initial_loss,  # weight of the losses on initial maps; on denoised ones 1
    )
  )


def benchmark(arg: str | None, name: str) -> ConfigDict:
  """As `base`, for a data set that --mode=prepare makes of raw files, trained from an ImageNet encoder."""
  config = base(arg)
  config.init_from = f'timm/{config.model.backbone}.tv_in1k'
  config.data.update(
    name=name,
    dir='runs/data',  # where prepared data sets are kept
    raw='',  # prepare: folder, archive or https address of the raw data
    raw_sha256='',  # prepare: of a download; unknown: taken as it comes
    workers=4,
  )
  return config


def mtpsl(arg: str | None, name: str, cross_task_weight: float, flip_view: bool, film: float) -> ConfigDict:
  """As `benchmark`, by MTPSL's code; of XTC, its consistency's weight and second view, and its parts' own rate."""
  config = benchmark(arg, name)
  config.data.augment = 'mtan'
  config.train.epochs = 200
  config.eval.protocol = 'mtpsl'
  config.eval.weights = 'best'  # MTPSL reports its best epoch by evaluation
  if config.method == 'xtc':
    config.model.cross_task_weight = cross_task_weight  # of XTC's consistency
    config.model.flip_view = flip_view  # XTC's second view of an image is flipped with probability 0.5
    config.optim.part_lr = dict(film=film)
  return config


def small(arg: str | None, name: str, token_stride: int) -> ConfigDict:
  """As `base`, for a network that a CPU trains, and labels of any of the six kinds.

  Args:
    token_stride: which leaves about as many tokens as the paper has, 256; with preset=released it stays 4.
  """
  config = base(arg)
  config.data.name, config.data.augment = name, 'light'
  config.model.width, config.model.channels = 32, 64
  if config.model.initial_weights == 'paper':
    config.model.initial_weights, config.model.token_stride = 'identity', token_stride
    if METHODS[config.method].network.diffuses:
      config.initial_loss = 0.1  # they learn through the denoised maps too
  config.optim.update(denoiser_fan_in=32, schedule='cosine', warmup=50)
  config.loss_weights = dict(semseg=2.0, parsing=2.0, saliency=5.0, normals=3.0, boundary=25.0, depth=1.0)
  return config


def defaults(values: dict) -> dict:
  """What a field is that a stored config has not: as in the config of its data set and method, as far as known."""
  data, method = values.get('data'), values.get('method')
  name = str(data.get('name')) if isinstance(data, dict) else ''
  module = f'{__package__}.{name}'
  known = name.isidentifier() and importlib.util.find_spec(module)
  get_config = getattr(importlib.import_module(module), 'get_config', base) if known else base
  arg = f'method={method}' if isinstance(method, str) and method in METHODS else None
  return get_config(arg).to_dict() | {'loss_weights': {}}  # a task that the run gave no weight has weight 1


def upgraded(values: dict) -> dict:
  """A stored config as today's code reads it: older ones name the network by `model.method` besides."""
  model = dict(values.get('model', {}))
  network, method = model.pop('method', None), values.get('method')
  if isinstance(network, str) and method not in ('no_diffusion', 'no_condition'):
    method = network
  model, optim = (
    dict(initial_weights='paper', token_stride=4) | model,
    dict(denoiser_fan_in=0, part_lr={}) | dict(values.get('optim', {})),
  )
  if method == 'xtc':
    model.setdefault('flip_view', False)
  data, scores = dict(values.get('data', {})), dict(values.get('eval', {}))
  if scores.get('protocol') == 'pascal':
    scores.setdefault('resolution', 'input')  # of a folder's older run too
  if 'geometry' not in scores and data.get('name') != 'pascal' and scores.get('protocol') == 'pascal':
    scores['protocol'] = 'plain'  # what `pascal` meant elsewhere before it had definitions of its own
  values = values | dict(model=model, optim=optim, data=data, eval=scores)
  if isinstance(method, str) and method in METHODS:
    values.setdefault('initial_loss', METHODS[method].initial_loss)
  return values | ({} if method is None else {'method': method})

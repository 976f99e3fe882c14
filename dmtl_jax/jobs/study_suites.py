"""What `--mode=study` runs: the methods, labels and seeds of each suite, and what all of its runs share."""

from collections.abc import Iterator
import dataclasses

ABLATIONS = ('mtl_baseline', 'prediction', 'feature', 'no_diffusion', 'no_condition')
SMALL = (*ABLATIONS, 'single_task', 'xtc', 'jtr', 'task_prototype')
PAPER = (*ABLATIONS, 'single_task', 'xtc', 'mti_net', 'invpt')
CORE = ABLATIONS[:3]
# Roles of groups: what a study is about; its methods trained longer; the baseline trained as many seconds as those of
# the first two; other numbers of labels; a changed field.
MAIN, LONG, TIME, COUNT, VARIANT = 'main', 'long', 'time', 'labels', 'variant'


@dataclasses.dataclass(frozen=True)
class Run:
  """One training: `name` is its folder's, `config` a config string, `flags` {field: value} of its config."""

  name: str
  config: str
  flags: dict[str, object]


@dataclasses.dataclass(frozen=True)
class Group:
  """Runs of a suite that differ in method and seed alone.

  Attributes:
    labels: label setting.
    seeds: {method: number of seeds}. Seeds are 0, 1, ...: of weights, order and augmentation, and, as
      `data.label_seed`, of which image shows which label.
    flags: {field: value} besides the suite's.
    role: what the study does with it, see above.
    suffix: end of the runs' names.
  """

  labels: str
  seeds: dict[str, int]
  flags: dict[str, object] = dataclasses.field(default_factory=dict)
  role: str = MAIN
  suffix: str = ''


@dataclasses.dataclass(frozen=True)
class Suite:
  """Runs on equal terms: the same images, labels, order, augmentation and steps for every method of a seed.

  Attributes:
    data: name of the config file, configs/DATA.py.
    title: the data in a word or two.
    groups: its runs; methods choose their rates under the labels of the first. The first of role TIME takes as many
      seconds as Prediction in the first of all, the others in those of role LONG, in order.
    flags: {field: value} that all runs set.
    rates: learning rates that every method chooses from, by its score on held-out training images; (): the config's.
    rate_steps: training steps of each run for that choice.
    needs: fields that the command must set, since they name the user's files.
    cost: the hardware and time it is planned for; not measured.
  """

  data: str
  title: str
  groups: tuple[Group, ...]
  flags: dict[str, object]
  rates: tuple[float, ...] = ()
  rate_steps: int = 0
  needs: tuple[str, ...] = ()
  cost: str = ''

  def trials(self) -> Iterator[tuple[str, float, Run]]:
    """(method, rate, run) of every candidate."""
    flags = self.flags | {'data.holdout_fraction': 0.2, 'train.steps': self.rate_steps, 'eval.panels': 0}
    for method in dict.fromkeys(method for group in self.groups for method in group.seeds):
      for rate in self.rates:
        string = self._string(method, self.groups[0].labels)
        yield method, rate, Run(f'rates/{method}-{rate:g}', string, flags | {'optim.lr': rate})

  def runs(self, rates: dict[str, float]) -> list[Run]:
    """All runs, the first seed's first, at these rates by method."""
    last = max(count for group in self.groups for count in group.seeds.values())
    return [
      run
      for seed in range(last)
      for group in self.groups
      for run in self.group_runs(group, rates)
      if run.flags['seed'] == seed
    ]

  def group_runs(self, group: Group, rates: dict[str, float]) -> list[Run]:
    """The runs of one group."""
    runs = []
    for method, count in group.seeds.items():
      for seed in range(count):
        own = {'seed': seed, 'data.label_seed': seed} | ({'optim.lr': rates[method]} if method in rates else {})
        name = '-'.join(filter(None, (method, group.labels, str(seed), group.suffix)))
        runs.append(Run(name, self._string(method, group.labels), self.flags | group.flags | own))
    return runs

  def _string(self, method: str, labels: str) -> str:
    return f'configs/{self.data}.py:method={method},labels={labels}'


def _seeds(methods: tuple[str, ...], count: int) -> dict[str, int]:
  return dict.fromkeys(methods, count)


def _steps(steps: int) -> dict[str, object]:
  return {'train.steps': steps, 'train.eval_every': steps}


def _variants(seeds: int, field: str, *values) -> tuple[Group, ...]:
  """Prediction with one label and other values of a field."""
  name = field.rpartition('.')[2]
  return tuple(Group('one', {'prediction': seeds}, {field: value}, VARIANT, f'{name}={value}') for value in values)


_ROOMS = {
  'data.train_count': 300, 'data.val_count': 100, 'train.steps': 600, 'train.eval_every': 600,
  'train.eval_images': 8, 'eval.workers': 0,
}  # fmt: skip
SUITES = {
  'scenes-small': Suite(
    'scenes', 'rooms',
    (
      Group('one', _seeds(SMALL, 6) | _seeds(ABLATIONS, 12)),
      Group('random', _seeds(CORE, 6)),
      Group('one', {'mtl_baseline': 6}, _steps(680), TIME, 'time'),
      Group('one', {'prediction': 3}, _steps(1800), LONG, 'long'),
      Group('one', {'mtl_baseline': 3}, _steps(2040), TIME, 'longtime'),
      Group('one', {'prediction': 1}, _steps(3600), LONG, 'longer'),
      Group('one', {'mtl_baseline': 1}, _steps(4080), TIME, 'longertime'),
      *(Group('one', _seeds(CORE[:2], 3), {'data.train_count': 6 * n}, COUNT, f'labels{n}') for n in (25, 100, 300)),
      *_variants(3, 'model.diffusion_steps', 1, 3),
      *_variants(3, 'initial_loss', 0.5),
      *_variants(3, 'model.condition', 'features'),
    ),
    _ROOMS, rates=(1e-3, 2e-3), rate_steps=600, cost='two CPU cores for five hours',
  ),
  'camvid': Suite(
    'folder', 'CamVid',
    (
      Group('one', _seeds(SMALL, 3)),
      Group('random', _seeds(CORE, 3)),
      Group('one', {'mtl_baseline': 3}, _steps(540), TIME, 'time'),
      *_variants(1, 'model.diffusion_steps', 1, 3),
      *_variants(1, 'model.token_stride', 1, 4),
      *_variants(3, 'initial_loss', 0.1),
      *_variants(1, 'model.condition', 'features'),
    ),
    {
      'data.size': (128, 160), 'model.width': 64, 'initial_loss': 0.5, 'train.steps': 450, 'train.eval_every': 450,
      'train.eval_images': 8, 'eval.workers': 0,
    },
    rates=(1e-3, 2e-3), rate_steps=450, needs=('data.path', 'init_from'), cost='two CPU cores for three hours',
  ),
  'scenes-full': Suite(
    'scenes', 'rooms, full width',
    (Group('one', _seeds(SMALL, 3)), Group('random', _seeds(CORE, 3)), *_variants(1, 'model.diffusion_steps', 1, 3, 4)),
    {
      'data.size': (256, 256), 'model.width': 64, 'model.channels': 512, 'train.steps': 1000, 'train.eval_every': 1000,
      'optim.lr': 2e-4, 'dtype': 'bfloat16',
    },
    rates=(1e-4, 3e-4), rate_steps=250, needs=('init_from',),
    cost='an H200 for half an hour, with --jobs=4 (a step of Prediction takes 32 ms)',
  ),
  'pascal': Suite(
    'pascal', 'PASCAL-Context',
    (Group('one', _seeds(PAPER, 1)), Group('random', _seeds(CORE, 1)), Group('full', _seeds(CORE, 1))),
    {}, cost='a GPU for days',
  ),
  'nyud': Suite(
    'nyud', 'NYUD-v2', (Group('one', _seeds(PAPER, 1)), Group('random', _seeds(CORE, 1))), {}, cost='a GPU for a day'
  ),
  'cityscapes': Suite(
    'cityscapes', 'Cityscapes', (Group('one', _seeds(PAPER, 1)), *_variants(1, 'model.diffusion_steps', 1, 3)),
    {}, cost='a GPU for a day'
  ),
}  # fmt: skip

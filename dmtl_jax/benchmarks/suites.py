"""What `study` runs: the methods, labels and seeds of each suite, and what all of its runs share."""

from collections.abc import Iterator
import dataclasses

SMALL = ('single_task', 'mtl_baseline', 'xtc', 'prediction', 'feature', 'no_diffusion', 'no_condition')
PAPER = (*SMALL, 'mti_net', 'invpt')
CORE = ('mtl_baseline', 'prediction', 'feature')


@dataclasses.dataclass(frozen=True)
class Run:
  """One training: `name` is its folder's, `config` a config string, `flags` {field: value} of its config."""

  name: str
  config: str
  flags: dict[str, object]


@dataclasses.dataclass(frozen=True)
class Suite:
  """Runs on equal terms: the same images, labels, order, augmentation and steps for every method of a seed.

  Attributes:
    data: names configs/DATA.py.
    methods: {label setting: methods}.
    flags: {field: value} of every config.
    seeds: {label setting: how many}, 1 where it is not named: 0, 1, ... of weights, order and augmentation;
      `data.label_seed`, which image shows which label, is the same number.
    diffusion_steps: numbers S that Prediction Diffusion is trained with besides its own (one label, the first seed).
    rates: learning rates that every method chooses from, by its score on a part of the training images that is held
      back from it; (): the config's.
    rate_steps: of training for that choice.
    needs: fields that name the user's files, which the command has to give.
    cost: what it is planned for; not measured.
  """

  data: str
  methods: dict[str, tuple[str, ...]]
  flags: dict[str, object]
  seeds: dict[str, int] = dataclasses.field(default_factory=dict)
  diffusion_steps: tuple[int, ...] = ()
  rates: tuple[float, ...] = ()
  rate_steps: int = 0
  needs: tuple[str, ...] = ()
  cost: str = ''

  def trials(self) -> Iterator[tuple[str, float, Run]]:
    """(method, rate, run) of every candidate."""
    labels = next(iter(self.methods))
    flags = self.flags | {'data.holdout_fraction': 0.2, 'train.steps': self.rate_steps, 'eval.panels': 0}
    for method in dict.fromkeys(method for methods in self.methods.values() for method in methods):
      for rate in self.rates:
        run = Run(f'rates/{method}-{rate:g}', self._string(method, labels), flags | {'optim.lr': rate})
        yield method, rate, run

  def runs(self, rates: dict[str, float]) -> list[Run]:
    """All runs, the first seed's first, at these rates by method."""
    found = []
    for seed in range(max(self.seeds.values(), default=1)):
      for labels, methods in self.methods.items():
        for method in methods if seed < self.seeds.get(labels, 1) else ():
          own = {'seed': seed, 'data.label_seed': seed} | ({'optim.lr': rates[method]} if method in rates else {})
          steps = self.diffusion_steps if (method, labels, seed) == ('prediction', 'one', 0) else ()
          found.append(Run(f'{method}-{labels}-{seed}', self._string(method, labels), self.flags | own))
          for s in steps:
            string = self._string(method, labels) + f',diffusion_steps={s}'
            found.append(Run(f'{method}-{labels}-{seed}-S{s}', string, self.flags | own))
    return found

  def _string(self, method: str, labels: str) -> str:
    return f'configs/{self.data}.py:method={method},labels={labels}'


SUITES = {
  'scenes-small': Suite(
    'scenes', {'one': SMALL, 'random': CORE},
    {
      'data.train_count': 300, 'data.val_count': 100, 'train.steps': 600, 'train.eval_every': 600,
      'train.eval_images': 8, 'eval.workers': 0,
    },
    {'one': 6, 'random': 3}, diffusion_steps=(1, 3, 4), rates=(1e-3, 2e-3), rate_steps=600,
    cost='two CPU cores for four hours',
  ),
  'camvid': Suite(
    'folder', {'one': SMALL, 'random': CORE},
    {
      'data.size': (96, 128), 'model.token_stride': 1, 'model.width': 64, 'train.steps': 150, 'train.eval_every': 150,
      'train.eval_images': 8, 'eval.workers': 0,
    },
    {'one': 3, 'random': 3}, diffusion_steps=(1, 3, 4), rates=(1e-3, 2e-3), rate_steps=150,
    needs=('data.path', 'init_from'), cost='two CPU cores for two hours',
  ),
  'scenes-full': Suite(
    'scenes', {'one': SMALL, 'random': CORE},
    {
      'data.size': (256, 256), 'data.train_count': 2000, 'data.simple': False, 'model.width': 64,
      'model.channels': 512, 'train.batch': 8, 'train.steps': 1000, 'train.eval_every': 1000,
      'optim.lr': 2e-4, 'dtype': 'bfloat16',
    },
    {'one': 3, 'random': 3}, diffusion_steps=(1, 3, 4), rates=(1e-4, 3e-4), rate_steps=250, needs=('init_from',),
    cost='an H200 for 25 minutes, with --jobs=4 (a step of Prediction takes 32 ms)',
  ),
  'pascal': Suite('pascal', {'one': PAPER, 'random': CORE, 'full': CORE}, {}, cost='a GPU for days'),
  'nyud': Suite('nyud', {'one': PAPER, 'random': CORE}, {}, cost='a GPU for a day'),
  'cityscapes': Suite('cityscapes', {'one': PAPER}, {}, diffusion_steps=(1, 3), cost='a GPU for a day'),
}  # fmt: skip

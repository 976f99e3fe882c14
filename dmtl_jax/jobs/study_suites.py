"""What `--mode=study` runs: the methods, labels and seeds of each suite, and what all of its runs share."""

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
    data: name of the config file, configs/DATA.py.
    methods: {label setting: methods}.
    flags: {field: value} that all runs set.
    seeds: {label setting: number of seeds}, default 1. Seeds are 0, 1, ...: of weights, order and augmentation, and, as
      `data.label_seed`, of which image shows which label.
    diffusion_steps: other S to train Prediction Diffusion with (one label, the first seed).
    rates: learning rates that every method chooses from, by its score on held-out training images; (): the config's.
    rate_steps: training steps of each run for that choice.
    needs: fields that the command must set, since they name the user's files.
    cost: the hardware and time it is planned for; not measured.
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
    runs = []
    for seed in range(max(self.seeds.values(), default=1)):
      for labels, methods in self.methods.items():
        for method in methods if seed < self.seeds.get(labels, 1) else ():
          own = {'seed': seed, 'data.label_seed': seed} | ({'optim.lr': rates[method]} if method in rates else {})
          steps = self.diffusion_steps if (method, labels, seed) == ('prediction', 'one', 0) else ()
          runs.append(Run(f'{method}-{labels}-{seed}', self._string(method, labels), self.flags | own))
          for s in steps:
            string = self._string(method, labels) + f',diffusion_steps={s}'
            runs.append(Run(f'{method}-{labels}-{seed}-S{s}', string, self.flags | own))
    return runs

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
      'data.size': (256, 256), 'model.width': 64, 'model.channels': 512, 'train.steps': 1000, 'train.eval_every': 1000,
      'optim.lr': 2e-4, 'dtype': 'bfloat16',
    },
    {'one': 3, 'random': 3}, diffusion_steps=(1, 3, 4), rates=(1e-4, 3e-4), rate_steps=250, needs=('init_from',),
    cost='an H200 for 25 minutes, with --jobs=4 (a step of Prediction takes 32 ms)',
  ),
  'pascal': Suite('pascal', {'one': PAPER, 'random': CORE, 'full': CORE}, {}, cost='a GPU for days'),
  'nyud': Suite('nyud', {'one': PAPER, 'random': CORE}, {}, cost='a GPU for a day'),
  'cityscapes': Suite('cityscapes', {'one': PAPER}, {}, diffusion_steps=(1, 3), cost='a GPU for a day'),
}  # fmt: skip

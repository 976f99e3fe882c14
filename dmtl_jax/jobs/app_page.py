"""The page of `--mode=app` in Gradio 6: inputs and settings on the left, a card per task on the right."""

from collections.abc import Iterator
import os
import pathlib
import tempfile
import time

import gradio as gr

from dmtl_jax.basics.errors import UserError
from dmtl_jax.basics.progress import duration
from dmtl_jax.inference import prediction, videos
from dmtl_jax.jobs import app_html, app_results
from dmtl_jax.jobs.app_results import Settings, Trial
from dmtl_jax.models import find
from dmtl_jax.runs import hub
from dmtl_jax.runs import workdir as workdir_lib
from dmtl_jax.tasks import Task

EXAMPLES = 6
MAX_UPLOAD = '200mb'  # of one file
# Of the visitor's machine, so that nothing is fetched from elsewhere.
FONTS = ('system-ui', '-apple-system', 'Segoe UI', 'Roboto', 'sans-serif')
LIFETIME = 3600  # seconds that uploads and results stay on the server's disk
IN_TURN = {'concurrency_limit': 1, 'concurrency_id': 'network', 'api_visibility': 'private', 'show_progress': 'hidden'}
PREPARE = 'Prepare maps for download'
WAITING = 'Drop a photograph above: its maps are predicted at once.'
REDUCED = 'The maps in the zip have {}×{} pixels; --mode=predict writes them as large as the photograph.'
FAILED = 'This did not work; the terminal in which the page was started says why.'
COMPILING = 'New settings: the network is compiled for {}, which takes seconds to a minute and happens once.'


class Page(gr.Blocks):
  """Blocks that start with this page's looks and limits, also by `launch()` on a Space."""

  report: pathlib.Path | None = None  # may be served

  def launch(self, *args, **options):
    """As `gr.Blocks.launch`, but a public address only with `share=True`, also on Colab."""
    looks = dict(theme=_make_theme(), css=app_html.CSS, footer_links=[], run_history=False)
    limits = dict(max_file_size=MAX_UPLOAD, allowed_paths=[str(self.report)] if self.report else None)
    return super().launch(*args, **(looks | limits | dict(share=False, ssr_mode=False) | options))


def _make_theme() -> gr.themes.Default:
  """Gradio's theme with the colours of the report, darker small print, and fonts that the visitor's machine has."""
  theme = gr.themes.Default(primary_hue='blue', font=FONTS, font_mono=('ui-monospace', 'monospace'))
  names = ('body_text_color_subdued', 'block_info_text_color', 'block_label_text_color', 'block_title_text_color')
  return theme.set(**dict.fromkeys(names, '*neutral_600'), **{f'{name}_dark': '*neutral_400' for name in names})


def build(workdir: str | os.PathLike) -> Page:
  """The page of a run; raises UserError if there is none."""
  folder = workdir_lib.resolve_run(workdir)
  predictor = prediction.load(folder)
  run = hub.public_name(folder if hub.is_address(workdir) else workdir)
  evaluation = app_results.read_evaluation(folder, predictor.step)
  trial = Trial(predictor)
  title = find(predictor.config.method).title
  report = (folder / 'report.html').absolute()
  with Page(title=f'{title}: {run}', analytics_enabled=False, delete_cache=(600, LIFETIME)) as page:
    if report.is_file():
      page.report = report
    link = f'gradio_api/file={report}' if page.report else ''
    gr.HTML(app_html.about(title, _describe(run, predictor), predictor.tasks, evaluation, link, trial.initial))
    with gr.Tabs():
      with gr.Tab('Photograph'):
        _build_photograph_tab(trial, _find_examples(folder))
      with gr.Tab('Video'):
        _build_video_tab(trial)
  return page.queue(max_size=16)


def _describe(run: str, predictor: prediction.Predictor) -> str:
  data = predictor.config.data
  name = pathlib.Path(data.get('path') or data.name).name
  height, width = predictor.size
  return (
    f'{run}: trained on {name}, {predictor.step} steps with images of {width}×{height} pixels. It predicts '
    f'{len(predictor.tasks)} maps of a photograph of any size. What you upload stays on the machine that serves this '
    'page, for an hour.'
  )


def _find_examples(folder: pathlib.Path) -> list[pathlib.Path]:
  """The first photographs of the run's panels; files that are no photographs are left out."""
  examples = []
  for path in sorted(folder.glob('panels/*/input.jpg')):
    try:
      app_results.read_photograph(path)
      examples.append(path)
    except UserError:
      continue
    if len(examples) == EXAMPLES:
      break
  return examples


# --- Photographs -----------------------------------------------------------------------------


def _build_photograph_tab(trial: Trial, examples: list[pathlib.Path]):
  with gr.Row():
    with gr.Column(scale=2, min_width=300):
      photo = gr.Image(
        type='filepath', sources=['upload', 'clipboard'], label='Photograph', height=250, buttons=[], elem_id='photo'
      )
      status = gr.HTML(app_html.status(WAITING))
      photo.preprocess = _path_of  # our own reader decodes the file, with its own sentences on what is wrong
      if examples:
        gr.Examples([[str(path)] for path in examples], [photo], cache_examples=False, label='Examples from the run')
      steps, samples = _build_settings(trial)
      start = gr.Button('Predict with these settings', variant='primary')
    with gr.Column(scale=5, min_width=300):
      hint = gr.HTML(app_html.hint('The maps appear here, one card per task.'))
      cards = _build_cards(trial)
      prepare = gr.Button(PREPARE, visible=False)
      download = gr.DownloadButton('Download', visible=False, variant='primary', elem_id='download')
  shown = gr.State(None)  # (path, settings) of the maps on the page

  def clear(text: str, kind: str = '') -> dict:
    """Updates that take away the maps, which would be of another photograph, and say why."""
    hidden = {prepare: gr.Button(visible=False), download: gr.DownloadButton(visible=False)}
    hidden |= {cards.column: gr.Column(visible=False), shown: None}
    return hidden | {status: app_html.status(text, kind), hint: gr.HTML(visible=True)}

  def show(path: str | None, diffusion_steps: float, draws: float) -> Iterator[dict]:
    if path is None:
      yield clear(WAITING)
      return
    settings = Settings(int(diffusion_steps), int(draws))
    yield {status: app_html.status(_announce(trial, settings), 'busy')}
    began = time.monotonic()
    try:
      pictures = trial.show(path, settings)
    except Exception as error:
      yield clear(_describe_error(error, path), 'error')
      raise _make_error(error, path) from error
    done = f'Predicted in {_format_seconds(time.monotonic() - began)} with {_describe_settings(settings)}.'
    yield {
      status: app_html.status(done),
      shown: (path, settings),
      hint: gr.HTML(visible=False),
      prepare: gr.Button(visible=True),
      download: gr.DownloadButton(visible=False),
      cards.column: gr.Column(visible=True),
      **cards.fill(pictures),
    }

  def archive(state: tuple[str, Settings] | None) -> Iterator[dict]:
    if state is None:
      return
    path, settings = state
    yield {prepare: gr.Button('Writing the maps…', interactive=False)}
    try:
      file, reduced = trial.archive(path, Settings(*settings), _new_folder(download.GRADIO_CACHE))
    except Exception as error:
      yield {prepare: gr.Button(PREPARE, interactive=True)}
      raise _make_error(error, path) from error
    size = f'{file.stat().st_size / 1e6:.1f} MB'
    yield {
      prepare: gr.Button(PREPARE, interactive=True, visible=False),
      download: gr.DownloadButton(f'Download {file.name} ({size})', value=str(file), visible=True),
    }
    if reduced:
      height, width = reduced
      yield {status: app_html.status(REDUCED.format(width, height))}

  outputs = [status, shown, hint, prepare, download, cards.column, *cards.components]
  gr.on([photo.change, start.click], show, [photo, steps, samples], outputs, trigger_mode='always_last', **IN_TURN)
  prepare.click(archive, [shown], [prepare, download, status], trigger_mode='once', **IN_TURN)


class _Cards:
  """A card per task: its two maps with a divider, its legend and, with samples, its uncertainty."""

  def __init__(self, trial: Trial, column: gr.Column):
    self.column = column
    self._cards = []
    for task in trial.tasks:
      with gr.Column(min_width=280):
        head = gr.HTML()
        slider = gr.ImageSlider(
          format='png', show_label=False, interactive=False, buttons=['fullscreen'], elem_id=f'maps-{task.name}',
          label=task.heading, max_height=420,
        )  # fmt: skip
        key = gr.HTML()
        spread_head = gr.HTML(app_html.card_head('', 'Uncertainty: how far the samples differ'), visible=False)
        spread = gr.Image(
          format='png', show_label=False, interactive=False, buttons=['fullscreen'], visible=False,
          elem_id=f'uncertainty-{task.name}', label=f'{task.heading}: uncertainty',
        )  # fmt: skip
        spread_key = gr.HTML(visible=False)
      self._cards.append((head, slider, key, spread_head, spread, spread_key))

  @property
  def components(self) -> list:
    return [component for card in self._cards for component in card]

  def fill(self, pictures: list[app_results.TaskPictures]) -> dict:
    """Updates of `components` that show these pictures."""
    updates = {}
    for (head, slider, key, spread_head, spread, spread_key), one in zip(self._cards, pictures):
      has_spread = one.uncertainty is not None
      updates[head] = app_html.card_head(one.task.heading, one.sides)
      updates[slider] = (one.before, one.after)
      updates[key] = app_html.legend(one.key)
      updates[spread] = gr.Image(one.uncertainty, visible=has_spread)
      updates[spread_head] = gr.HTML(visible=has_spread)
      updates[spread_key] = gr.HTML(app_html.legend(one.uncertainty_key) if has_spread else '', visible=has_spread)
    return updates


def _build_cards(trial: Trial) -> _Cards:
  with gr.Column(visible=False) as column, gr.Row(elem_classes='results'):
    return _Cards(trial, column)


# --- Videos ----------------------------------------------------------------------------------


def _build_video_tab(trial: Trial):
  limit = f'The first {app_results.MAX_FRAMES} frames of a video are predicted; --mode=predict takes whole videos.'
  with gr.Row():
    with gr.Column(scale=2, min_width=300):
      video = gr.Video(sources=['upload'], label='Video', height=250, buttons=[], elem_id='video')
      status = gr.HTML(app_html.status(limit))
      steps, samples = _build_settings(trial)
      start = gr.Button('Predict', variant='primary')
    with gr.Column(scale=5, min_width=300):
      hint = gr.HTML(app_html.hint('The videos appear here: all tasks and stages in one, and one per task.'))
      column = gr.Column(visible=False)
    with column:
      sheet = gr.Video(label='All tasks and stages', interactive=False, elem_id='video-all', loop=True)
      with gr.Row(elem_classes='results'):
        maps = {task.name: _build_player(task) for task in trial.tasks}

  def clear(text: str, kind: str = '') -> dict:
    return {status: app_html.status(text, kind), hint: gr.HTML(visible=True), column: gr.Column(visible=False)}

  def show(path: str | None, diffusion_steps: float, draws: float, progress=gr.Progress()) -> Iterator[dict]:  # noqa: B008
    if path is None:
      yield clear(limit)
      return
    settings = Settings(int(diffusion_steps), int(draws))
    yield {status: app_html.status(_announce(trial, settings), 'busy')}
    began = time.monotonic()
    try:
      result = trial.video(path, settings, _new_folder(sheet.GRADIO_CACHE), lambda done, total: progress((done, total)))
    except Exception as error:
      yield clear(_describe_error(error, path), 'error')
      raise _make_error(error, path) from error
    taken = _format_seconds(time.monotonic() - began)
    done = f'{result.frames} frames predicted in {taken} with {_describe_settings(settings)}.'
    cut = '' if result.is_whole else ' The video is longer: --mode=predict takes all of it.'
    if result.is_shortened:
      cut += f' Frames that last longer than {videos.LONGEST_FRAME:g} s are shown for so long.'
    files = {place: str(file) for place, file in result.paths.items()}
    yield {
      status: app_html.status(done + cut),
      hint: gr.HTML(visible=False),
      column: gr.Column(visible=True),
      sheet: files[''],
      **{component: files[name] for name, component in maps.items()},
    }

  outputs = [status, hint, column, sheet, *maps.values()]
  options = IN_TURN | {'show_progress': 'full', 'show_progress_on': status}
  start.click(show, [video, steps, samples], outputs, trigger_mode='once', **options)


def _build_player(task: Task) -> gr.Video:
  return gr.Video(label=task.heading, interactive=False, min_width=280, elem_id=f'video-{task.name}', loop=True)


# --- Common to both --------------------------------------------------------------------------


def _build_settings(trial: Trial) -> tuple[gr.Slider, gr.Slider]:
  """Sliders for S and for the number of noise draws, invisible for methods without them."""
  default = trial.default_steps
  steps = gr.Slider(
    min(default, 1), max(trial.max_steps, 1), default, step=1, label='S, denoising steps',
    info=f'trained with {trial.trained_steps}; more take longer', visible=default > 0,
  )  # fmt: skip
  samples = gr.Slider(
    1, app_results.MAX_SAMPLES, 1, step=1, label='Samples', visible=trial.draws_noise,
    info='noise draws that are averaged; more than one also show where they differ (uncertainty)',
  )  # fmt: skip
  return steps, samples


def _path_of(payload) -> str | None:
  """The uploaded file, which Gradio has checked to lie in its folder of uploads."""
  return payload.path if payload else None


def _new_folder(parent: str) -> pathlib.Path:
  """An empty folder in Gradio's cache, from which files are served without another copy."""
  os.makedirs(parent, exist_ok=True)
  return pathlib.Path(tempfile.mkdtemp(dir=parent))


def _announce(trial: Trial, settings: Settings) -> str:
  name = _describe_settings(settings)
  return COMPILING.format(name) if trial.needs_compiling(settings) else f'Predicting with {name}…'


def _describe_settings(settings: Settings) -> str:
  draws = '1 sample' if settings.samples == 1 else f'{settings.samples} samples'
  return f'S = {settings.diffusion_steps}, {draws}' if settings.diffusion_steps else 'the network'


def _format_seconds(seconds: float) -> str:
  return f'{seconds:.1f} s' if seconds < 9.95 else duration(seconds)


def _describe_error(error: Exception, path: str) -> str:
  return app_results.describe_error(error, path) if isinstance(error, UserError) else FAILED


def _make_error(error: Exception, path: str) -> gr.Error:
  """The error as Gradio shows it; only a defect of the program leaves its traceback in the terminal."""
  return gr.Error(_describe_error(error, path), print_exception=not isinstance(error, UserError))

"""The page of `--mode=app`: what it shows and gives away, and the page itself in a browser."""

import importlib.metadata
import os
import pathlib
import shutil
import signal
import threading
import zipfile

import cv2
import numpy as np
from PIL import Image
import pytest

import dmtl_jax
from dmtl_jax.basics import atomic
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import common
from dmtl_jax.draw import legends
from dmtl_jax.inference import prediction
from dmtl_jax.jobs import app, app_html, app_results, predict, predict_record
from dmtl_jax.jobs.app_results import Settings, Trial
from dmtl_jax.tasks import make_task
from tests.hub_server import Repo
from tests.tiny import SIZE, TASKS, Tiny

pytestmark = pytest.mark.usefixtures('short_encoder')
NAMES = [task.name for task in TASKS]
ONCE = Settings(2, 1)
SHOWN = (427, 640)  # of a photograph of SIZE on the page


def write_photo(path, height=SIZE[0], width=SIZE[1]):
  small = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  Image.fromarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)).save(path)
  return path


def write_video(path, frames=4, size=(48, 64)):
  writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'mp4v'), 10, size[::-1])
  for _ in range(frames):
    writer.write(np.full((*size, 3), 90, np.uint8))
  writer.release()
  return path


@pytest.fixture(scope='module')
def predictor(tiny_run):
  return prediction.load(tiny_run)


@pytest.fixture(scope='module')
def trial(predictor):
  return Trial(predictor)


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
  return write_photo(tmp_path_factory.mktemp('photos') / 'a photo.png')


# --- What it computes ------------------------------------------------------------------------


def test_the_maps_are_those_of_the_predictor(trial, predictor, photo):
  raw = predictor.raw(np.asarray(Image.open(photo)))
  shown = trial.show(photo, ONCE)
  assert [one.task.name for one in shown] == NAMES
  for one in shown:
    initial, final = (raw.prediction(stage, one.task, SHOWN) for stage in ('initial', 'final'))
    limits = one.task.limits(final)
    np.testing.assert_array_equal(one.before, one.task.picture(initial, limits))
    np.testing.assert_array_equal(one.after, one.task.picture(final, limits))
    assert one.uncertainty is None


@pytest.mark.parametrize('size, expected', [((20, 32), (400, 640)), ((1500, 1000), (960, 640)), ((1, 700), (1, 700))])
def test_pictures_fit_the_page(trial, tmp_path, size, expected):
  shown = trial.show(write_photo(tmp_path / 'a.png', *size), ONCE)
  assert {picture.shape[:2] for one in shown for picture in (one.before, one.after)} == {expected}


def test_legends_name_the_classes_of_either_map(trial, predictor, photo):
  shown = {one.task.name: one for one in trial.show(photo, ONCE)}
  task = TASKS[0]
  raw = predictor.raw(np.asarray(Image.open(photo)))
  present = {i for stage in ('initial', 'final') for i in np.unique(raw.prediction(stage, task, SHOWN))}
  assert {name for name, _ in shown['semseg'].key.entries} == {task.classes[i] for i in present}


def test_another_s_is_as_of_a_run_evaluated_with_it(trial, predictor, photo):
  eval_config = common.base('').eval
  eval_config.diffusion_steps = 3
  evaluated = prediction.Predictor(predictor.model, predictor.variables, SIZE, eval_config, predictor.seed)
  depth = TASKS[-1]
  expected = evaluated.raw(np.asarray(Image.open(photo))).prediction('final', depth, SHOWN)
  assert trial.needs_compiling(Settings(3, 1))
  shown = trial.show(photo, Settings(3, 1))
  np.testing.assert_array_equal(shown[-1].after, depth.picture(expected, depth.limits(expected)))
  assert not trial.needs_compiling(Settings(3, 1))
  assert not np.array_equal(shown[-1].after, trial.show(photo, ONCE)[-1].after)


def test_samples_show_their_uncertainty(trial, predictor, photo):
  depth = TASKS[-1]
  raw = predictor.raw(np.asarray(Image.open(photo)), 2)
  mean, spread = (raw.prediction(stage, depth, SHOWN) for stage in ('final', 'uncertainty'))
  shown = trial.show(photo, Settings(2, 2))[-1]
  np.testing.assert_array_equal(shown.after, depth.picture(mean, depth.limits(mean)))
  brightness = shown.uncertainty.sum(-1)
  assert brightness[np.unravel_index(spread.argmax(), SHOWN)] == brightness.max() > brightness.min()
  assert shown.uncertainty_key.low == '0'


def test_a_method_without_initial_maps_is_shown_beside_the_photograph(photo):
  tiny = Tiny('method=mtl_baseline', tasks=TASKS[-1:])
  trial = Trial(prediction.Predictor(tiny.model, tiny.variables, SIZE, tiny.config.eval, 0, tiny.config))
  (depth,) = trial.show(photo, Settings(0, 1))
  assert (trial.default_steps, trial.max_steps, trial.draws_noise) == (0, 0, False)
  pixels = np.asarray(Image.open(photo))
  np.testing.assert_array_equal(depth.before, cv2.resize(pixels, SHOWN[::-1], interpolation=cv2.INTER_LINEAR))


def test_the_archive_holds_what_predict_writes(trial, tiny_run, photo, tmp_path):
  predict.run(str(tiny_run), 'best', [str(photo)], str(tmp_path / 'maps'))
  archive, reduced = trial.archive(photo, ONCE, tmp_path)
  (tmp_path / 'maps' / predict_record.NAME).unlink()  # what a stopped prediction goes on by
  files = {str(path.relative_to(tmp_path / 'maps')): path for path in (tmp_path / 'maps').rglob('*') if path.is_file()}
  assert archive.name == 'a photo_maps.zip'
  assert reduced is None
  with zipfile.ZipFile(archive) as file:
    assert set(file.namelist()) == set(files)
    assert all(file.read(name) == path.read_bytes() for name, path in files.items())


def test_the_archive_of_a_large_photograph_is_bounded(trial, tmp_path, monkeypatch):
  monkeypatch.setattr(predict, 'SIDE', 48)
  archive, reduced = trial.archive(write_photo(tmp_path / 'a.png'), ONCE, tmp_path)
  assert reduced == (32, 48)
  with zipfile.ZipFile(archive) as file:
    sizes = {name: np.load(file.open(name)).shape[:2] for name in file.namelist() if name.endswith('.npy')}
  assert sizes == {f'{name}/a.npy': (32, 48) for name in NAMES}


def test_a_long_video_is_cut_and_said_to_be(trial, tmp_path, monkeypatch):
  monkeypatch.setattr(app_results, 'MAX_FRAMES', 2)
  counts = []
  result = trial.video(write_video(tmp_path / 'a.mp4'), ONCE, tmp_path / 'out', lambda *count: counts.append(count))
  assert not result.is_shortened
  assert (result.frames, result.is_whole, counts) == (2, False, [(1, 2), (2, 2)])
  assert set(result.paths) == {'', *NAMES}
  assert {cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) for path in result.paths.values()} == {2}
  assert trial.video(tmp_path / 'a.mp4', ONCE, tmp_path / 'again').is_whole is False
  monkeypatch.setattr(app_results, 'MAX_FRAMES', 4)
  assert trial.video(tmp_path / 'a.mp4', ONCE, tmp_path / 'whole').is_whole


@pytest.mark.parametrize('width, height', [(9_000, 8_000), (64_001, 1_000)])
def test_a_photograph_too_large_is_refused_before_it_is_decoded(trial, tmp_path, monkeypatch, width, height):
  Image.new('1', (width, height)).save(tmp_path / 'a.png')
  monkeypatch.setattr(app_results.photographs, 'read_image', None)
  with pytest.raises(UserError, match=f'{width}x{height} pixels; this page takes up to 64 million: shrink it'):
    trial.show(tmp_path / 'a.png', ONCE)


def test_a_frame_too_large_is_refused(trial, tmp_path, monkeypatch):
  monkeypatch.setattr(app_results, 'MAX_PIXELS', 48 * 64 - 1)
  with pytest.raises(UserError, match='64x48 pixels'):
    trial.video(write_video(tmp_path / 'a.mp4'), ONCE, tmp_path / 'out')


def test_an_error_names_the_visitors_file_and_no_folder_of_this_machine(trial, tmp_path):
  (tmp_path / 'a.jpg').write_text('hello')
  with pytest.raises(UserError) as caught:
    trial.show(tmp_path / 'a.jpg', ONCE)
  assert app_results.describe_error(caught.value, tmp_path / 'a.jpg').startswith('a.jpg: cannot be read as an image')


# --- HTML ------------------------------------------------------------------------------------


def test_names_of_a_run_cannot_add_html():
  hostile = '<script>alert(1)</script>'
  pieces = [
    app_html.legend(legends.Swatches([(hostile, (1, 2, 3))])),
    app_html.status(hostile),
    app_html.card_head(hostile, hostile),
    app_html.about(hostile, hostile, (), None, f'"><{hostile}'),
  ]
  assert all('<script' not in piece and '&lt;script&gt;' in piece for piece in pieces)


def test_a_card_says_what_is_left_and_right():
  both = ('final', 'initial')
  assert app_results.name_sides(both, is_initial=False, denoises=True) == '◀ initial │ denoised ▶'
  assert app_results.name_sides(both, is_initial=False, denoises=False) == '◀ initial │ final ▶'  # InvPT and MTI-Net
  assert app_results.name_sides(both, is_initial=True, denoises=True) == 'initial, chosen by evaluation'
  assert app_results.name_sides(('final',), is_initial=False, denoises=False) == '◀ photograph │ prediction ▶'


def test_scores_are_those_of_the_maps_that_predictions_are_made_of(tmp_path):
  scores = {
    stage: {'semseg': {'mIoU': value}, 'saliency': {'maxF': value}} for stage, value in (('initial', 61), ('final', 52))
  }
  by = {'step': 7, 'protocol': 'plain', 'weights': 'best', 'resolution': 'input', 'data': 'streets'}
  atomic.write_json(tmp_path / 'metrics.json', by | scores)
  evaluation = app_results.read_evaluation(tmp_path, 7)
  tasks = make_task('semseg', 'semseg', ('a', 'b')), make_task('saliency', 'saliency')
  note, cells = app_html._scores(tasks, evaluation, ('saliency',))
  assert note.startswith('Scores on the validation images of streets (initial')
  assert [(cell['scores'], cell['metric']) for cell in cells] == [
    ('61.00 → 52.00', 'mIoU ↑'),
    ('61.00', 'maxF ↑, initial maps'),
  ]


def test_scores_of_other_weights_are_not_shown(tmp_path, capsys):
  scores = {
    'step': 9,
    'protocol': 'plain',
    'weights': 'latest',
    'resolution': 'input',
    'final': {'depth': {'absErr': 1.0}},
  }
  atomic.write_json(tmp_path / 'metrics.json', scores)
  assert app_results.read_evaluation(tmp_path, 7) is None
  assert (
    f'metrics.json has those of step 9, and the weights are of step 7; --mode=evaluate --workdir={tmp_path}'
    in capsys.readouterr().out
  )
  assert app_results.read_evaluation(tmp_path, 9)


def test_legends_have_the_colours_of_the_pictures():
  swatches = app_html.legend(legends.Swatches([('road', (1, 2, 255))]))
  scale = app_html.legend(TASKS[-1].key((1.0, 4.0)))
  assert 'background:#0102ff' in swatches
  assert '<span>&lt; 1</span><span>&gt; 4 (label units)</span>' in scale


# --- The page --------------------------------------------------------------------------------


@pytest.mark.parametrize('version', [None, '5.49.1'])
def test_without_gradio_6_it_says_what_to_install(tiny_run, monkeypatch, version):
  def find(name):
    if version is None:
      raise importlib.metadata.PackageNotFoundError(name)
    return version

  monkeypatch.setattr(importlib.metadata, 'version', find)
  with pytest.raises(UserError, match=f"needs gradio 6, found {version or 'none'}; run pip install -e '.\\[app\\]'"):
    dmtl_jax.app(tiny_run)


@pytest.mark.usefixtures('ctrl_c')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_the_end_of_the_page_removes_what_was_uploaded(monkeypatch, capsys, number):
  served = []

  class Page:
    def launch(self, **options):
      served.append(pathlib.Path(os.environ['GRADIO_TEMP_DIR']))
      (served[0] / 'upload.jpg').write_text('of a visitor')
      threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
      return None, 'http://here', None

    def close(self, verbose):
      served.append('closed')

  monkeypatch.setenv('GRADIO_TEMP_DIR', 'restored after the test')
  monkeypatch.delenv('GRADIO_TEMP_DIR')
  monkeypatch.setattr(app, 'build', lambda workdir: Page())
  app.run('runs/mine')
  assert served[1:] == ['closed']
  assert not served[0].exists()
  assert capsys.readouterr().out.endswith('the page is closed\n')


@pytest.fixture(scope='module')
def run_folder(tiny_run, tmp_path_factory):
  """A run with scores missing, a report, a photograph among its panels, and a file that only claims to be one."""
  folder = tmp_path_factory.mktemp('served') / 'run'
  shutil.copytree(tiny_run, folder)
  for name in ('val_0', 'val_1'):
    (folder / 'panels' / name).mkdir(parents=True)
  write_photo(folder / 'panels/val_0/input.jpg', *SIZE)
  (folder / 'panels/val_1/input.jpg').write_text('secret')
  (folder / 'report.html').write_text('<h1>The report</h1>')
  return folder


@pytest.fixture(scope='module')
def served(run_folder, tmp_path_factory):
  """The page's address; it serves an untrained run."""
  pytest.importorskip('gradio', reason="needs Gradio: pip install -e '.[app]'")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('GRADIO_TEMP_DIR', str(tmp_path_factory.mktemp('uploads')))
    patch.setenv('http_proxy', 'http://127.0.0.1:9')  # where nothing answers
    for name in ('no_proxy', 'NO_PROXY'):
      patch.setenv(name, '')
    page = app.build(run_folder)
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True)
    yield address
    page.close(verbose=False)


@pytest.mark.parametrize('options, shared', [({}, False), ({'share': True}, True)])
def test_the_page_gets_a_public_address_only_if_asked(monkeypatch, options, shared):
  gradio = pytest.importorskip('gradio', reason="needs Gradio: pip install -e '.[app]'")
  from dmtl_jax.jobs import app_page

  monkeypatch.setattr(gradio.Blocks, 'launch', lambda page, **options: options['share'])
  assert app_page.Page().launch(**options) is shared


def test_only_photographs_are_examples(run_folder, served):
  from dmtl_jax.jobs import app_page

  assert app_page._find_examples(run_folder) == [run_folder / 'panels/val_0/input.jpg']


def test_a_run_of_the_hub_is_named_with_its_commit(hub_server, tiny_run):
  pytest.importorskip('gradio', reason="needs Gradio: pip install -e '.[app]'")
  from dmtl_jax.jobs import app_page

  files = {str(path.relative_to(tiny_run)): path.read_bytes() for path in tiny_run.rglob('*') if path.is_file()}
  hub_server.repos['me/run'] = Repo(files)
  page = app_page.build('hf://me/run')
  assert page.title.endswith(f': hf://me/run@{hub_server.repos["me/run"].head}')
  assert sum('/revision/main' in request for request in hub_server.requests) == 1  # weights and scores of one commit


def test_no_file_but_the_report_is_served(run_folder, served):
  import httpx

  def status(path):
    return httpx.get(f'{served}gradio_api/file={path}').status_code

  assert status(run_folder / 'report.html') == 200
  assert {status(path) for path in (run_folder / 'config.json', pathlib.Path(__file__), '/etc/passwd')} == {403}


def test_a_port_that_is_taken_is_refused(run_folder, served):
  port = int(served.rstrip('/').rpartition(':')[2])
  with pytest.raises(UserError, match=f'--port={port}: the port cannot be used here'):
    app.run(str(run_folder), port)


@pytest.mark.parametrize('width', [1280, 390])
def test_a_photograph_in_six_maps_and_a_zip_out(served, browser, photo, tmp_path, width):
  tab = browser.new_page(viewport={'width': width, 'height': 844})
  errors = []
  addresses = []
  tab.on('console', lambda message: errors.append(message.text) if message.type == 'error' else None)
  tab.on('pageerror', lambda error: errors.append(str(error)))
  tab.on('request', lambda request: addresses.append(request.url))
  tab.goto(served)
  tab.locator('#photo input[type=file]').set_input_files(photo)
  tab.get_by_text('Predicted in').wait_for()
  for name in NAMES:
    card = tab.locator(f'#maps-{name}')
    card.scroll_into_view_if_needed()
    tab.wait_for_function(
      f"[...document.querySelectorAll('#maps-{name} img')].filter(image => image.naturalWidth == 640).length == 2"
    )
  assert tab.evaluate('document.documentElement.scrollWidth') == width
  tab.get_by_role('button', name='Prepare maps for download').click()
  with tab.expect_download() as download:
    tab.locator('#download').click()
  with zipfile.ZipFile(download.value.path()) as file:
    assert len(file.namelist()) == 1 + 2 * len(NAMES)
  assert not errors
  assert not [address for address in addresses if not address.startswith((served, 'data:', 'blob:'))]
  tab.close()


def test_a_file_that_is_no_photograph_gets_a_sentence(served, browser, tmp_path):
  (tmp_path / 'notes.jpg').write_text('hello')
  tab = browser.new_page()
  tab.goto(served)
  tab.locator('#photo input[type=file]').set_input_files(tmp_path / 'notes.jpg')
  tab.locator('.status.error').wait_for()
  sentence = tab.locator('.status.error').inner_text()
  assert sentence.startswith('notes.jpg: cannot be read as an image')
  assert 'Traceback' not in tab.inner_text('body')
  tab.close()

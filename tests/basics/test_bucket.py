"""Mirrors of folders in a bucket, on TensorStore's store in memory and on a storage of our own (`tests.gcs`)."""

import importlib.util
import json
import os
import pathlib
import time

import pytest
import tensorstore as ts

from dmtl_jax import cli
from dmtl_jax.basics import bucket, errors
from dmtl_jax.basics.errors import UserError
from dmtl_jax.runs import bucket_lock
from tests import gcs

ADDRESS = f'gs://{gcs.BUCKET}/runs/a'


@pytest.fixture(autouse=True)
def no_mirrors(monkeypatch):
  monkeypatch.setattr(bucket, '_mirrors', {})
  monkeypatch.setattr(errors, 'aliases', {})


@pytest.fixture
def store():
  return ts.KvStore.open('memory://run/').result()


@pytest.fixture(scope='module')
def storage():
  """One for all tests, since TensorStore reads its environment variables only once."""
  with gcs.Bucket() as running, pytest.MonkeyPatch.context() as patch:
    for name, value in running.environment().items():
      patch.setenv(name, value)
    yield running


@pytest.fixture
def server(storage, monkeypatch):
  """A storage that TensorStore's client finds, and whose failures it does not wait for."""
  monkeypatch.setattr(bucket, 'RETRIES', {'max_retries': 2, 'initial_delay': '1ms', 'max_delay': '1ms'})
  monkeypatch.setattr(bucket, 'check_library', lambda where: None)  # TensorStore needs no gcsfs
  yield storage
  storage.reset()


def make_mirror(store) -> bucket.Mirror:
  return bucket.Mirror(ADDRESS, store, lambda: [key.decode() for key in store.list().result()])


def content(store) -> dict[str, bytes]:
  return {key.decode(): store.read(key).result().value for key in store.list().result()}


# --- Addresses -------------------------------------------------------------------------------


@pytest.mark.parametrize('address', ['gs://', 'gs://b', 'gs://my-bucket/../x', 'gs://my-bucket/a*', 'gs://My/x'])
def test_an_address_that_is_no_folder_is_refused(address):
  with pytest.raises(UserError, match='--workdir: .* is no folder in a bucket; give gs://BUCKET/FOLDER'):
    bucket.check_address('--workdir', address)


def test_a_missing_library_is_named(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"--workdir: gs:// needs .* run pip install 'dmtl_jax\[gcs\]'"):
    bucket.check_address('--workdir', ADDRESS)


@pytest.mark.parametrize('scheme', ['s3', 'az', 'GS'])
def test_other_storages_are_refused(scheme, fresh_flags, capsys):
  fresh_flags()
  assert cli.main(['main.py', '--mode=evaluate', f'--workdir={scheme}://my-bucket/run']) == 1
  (line,) = capsys.readouterr().err.splitlines()
  assert f'{scheme}:// is not supported there; give gs://... or hf://..., or a path of this machine' in line


@pytest.mark.parametrize('address', ['gs://my-bucket', 'gs://my-bucket/..', 'gs://my-bucket//'])
def test_results_go_to_a_folder_in_a_bucket(address, fresh_flags, capsys, monkeypatch):
  monkeypatch.setattr(bucket, 'check_library', lambda where: None)
  fresh_flags()
  assert cli.main(['main.py', '--mode=report', '--workdirs=scenes', f'--out={address}']) == 1
  assert f"--out: '{address}' is no folder in a bucket; give gs://BUCKET/FOLDER" in capsys.readouterr().err


# --- Mirrors ---------------------------------------------------------------------------------


def test_a_mirror_fetches_the_small_files_only(store):
  kept = {'config.json': b'1', 'log.jsonl': b'22', 'panels/a/b.png': b'3', 'tensorboard/events': b'4'}
  others = ['checkpoints/4/meta', 'predictions/semseg/a.npy', '../out', 'panels/../x', 'panels//x', 'a\nb', '.lock']
  for name, value in (kept | dict.fromkeys(others, b'x')).items():
    store.write(name, value).result()
  mirror = make_mirror(store)
  mirror.fetch()
  files = [path for path in mirror.folder.rglob('*') if path.is_file()]
  assert {str(path.relative_to(mirror.folder)): path.read_bytes() for path in files} == kept
  assert {path.name for path in mirror.folder.parent.iterdir()} == {'a'}


def test_what_changed_in_a_mirror_is_copied_and_what_is_gone_is_deleted(store):
  for name in ('old', 'same', 'checkpoints/1'):
    store.write(name, b'before').result()
  mirror = make_mirror(store)
  mirror.fetch()
  same = store.read('same').result().stamp.generation
  (mirror.folder / 'old').unlink()
  (mirror.folder / 'panels').mkdir()
  (mirror.folder / 'panels/new').write_bytes(b'new')
  (mirror.folder / '.abc.tmp').write_bytes(b'half')
  mirror.push()
  assert content(store) == {'same': b'before', 'checkpoints/1': b'before', 'panels/new': b'new'}
  assert store.read('same').result().stamp.generation == same


def test_files_that_vanish_stop_neither_copy(store, monkeypatch):
  """Another process deleted an object since the bucket was listed; a tracker deletes a file of its own."""
  store.write('config.json', b'{}').result()
  mirror = bucket.Mirror(ADDRESS, store, lambda: ['config.json', 'gone.json'])
  mirror.fetch()
  assert [path.name for path in mirror.folder.iterdir()] == ['config.json']
  (mirror.folder / 'kept').write_bytes(b'1')
  real = mirror._files
  monkeypatch.setattr(mirror, '_files', lambda: real() | {'wandb': (0, 0)})
  mirror.push()
  assert content(store) == {'config.json': b'{}', 'kept': b'1'}


def test_a_mirror_that_could_not_be_fetched_is_fetched_by_the_next_call(store, monkeypatch):
  store.write('config.json', b'{}').result()
  listings = iter([PermissionError('Forbidden'), ['config.json']])

  def list_names(address):
    if isinstance(listing := next(listings), Exception):
      raise listing
    return listing

  monkeypatch.setattr(bucket, '_open_store', lambda address: store)
  monkeypatch.setattr(bucket, 'check_library', lambda where: None)
  monkeypatch.setattr(bucket, '_list_names', list_names)
  with pytest.raises(bucket.OutageError, match='no permission'):
    bucket.mirror(ADDRESS, 'workdir')
  assert os.listdir(bucket.mirror(ADDRESS, 'workdir')) == ['config.json']


def test_a_later_call_sees_what_changed_in_the_bucket_and_keeps_what_changed_here(store, monkeypatch):
  for name in ('calibration.json', 'log.jsonl', 'panels/best.png', 'config.json'):
    store.write(name, b'old').result()
  monkeypatch.setattr(bucket, '_open_store', lambda address: store)
  monkeypatch.setattr(bucket, 'check_library', lambda where: None)
  monkeypatch.setattr(bucket, '_list_names', lambda address: [key.decode() for key in store.list().result()])
  folder = pathlib.Path(bucket.mirror(ADDRESS, 'workdir'))
  (folder / 'log.jsonl').write_bytes(b'pushed')
  (folder / 'predictions').mkdir()
  (folder / 'predictions/a.npy').write_bytes(b'not mirrored')
  bucket.push(folder)
  (folder / 'log.jsonl').write_bytes(b'newer')
  store.write('calibration.json', b'new').result()
  store.write('panels/best.png', None).result()
  untouched = (folder / 'config.json').stat().st_mtime_ns
  assert bucket.mirror(f'{ADDRESS}/', 'workdir') == str(folder)
  files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}
  assert files == {
    'calibration.json': b'new',
    'log.jsonl': b'newer',
    'config.json': b'old',
    'predictions/a.npy': b'not mirrored',
  }
  assert (folder / 'config.json').stat().st_mtime_ns == untouched
  bucket.push(folder)
  assert content(store) == files


def test_messages_and_reports_name_the_address(store, capsys):
  mirror = make_mirror(store)
  (mirror.folder / 'report.html').write_text(f'--workdir={mirror.folder}')
  mirror.push()
  assert content(store) == {'report.html': f'--workdir={ADDRESS}'.encode()}
  errors.print_error(UserError(f'{mirror.folder}/config.json: no such file'))
  assert capsys.readouterr().err == f'Error: {ADDRESS}/config.json: no such file\n'


def test_a_command_leaves_its_files_in_the_bucket_also_if_it_ends_with_a_sentence(store):
  mirror = make_mirror(store)
  with pytest.raises(UserError, match='step 5'), bucket.mirrored():
    (mirror.folder / 'nan_5.json').write_bytes(b'{}')
    raise UserError('step 5: loss nan')
  assert content(store) == {'nan_5.json': b'{}'}


def test_files_at_the_top_go_last(server):
  mirror = make_mirror(bucket._open_store(ADDRESS))
  (mirror.folder / 'panels').mkdir()
  for name in ('metrics.json', 'panels/index.json', 'panels/a.png'):
    (mirror.folder / name).write_bytes(b'1')
  mirror.push()
  generations = {name: item.generation for name, item in server.objects.items()}
  assert generations['runs/a/metrics.json'] == max(generations.values())


# --- Outages ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
  'status, words',
  [
    (403, "no permission; give this machine's account the roles Storage Object Admin and"),
    (401, 'not signed in, or no longer; run gcloud auth application-default login'),
    (503, 'the bucket does not answer'),
    (429, 'the bucket does not answer'),
  ],
)
def test_an_outage_is_one_sentence(server, status, words):
  mirror = make_mirror(bucket._open_store(ADDRESS))
  (mirror.folder / 'config.json').write_bytes(b'{}')
  server.fault = lambda *_: status
  with pytest.raises(bucket.OutageError) as error:
    mirror.push()
  assert str(error.value).startswith(f'{ADDRESS}: {words}')
  assert '\n' not in str(error.value)


def test_a_bucket_that_is_not_there_or_not_ours_is_named(server):
  pytest.importorskip('gcsfs', reason='gcsfs, through which a bucket is listed, is not installed')
  with pytest.raises(UserError, match='gs://other-bucket/runs: no such bucket; make it, or check its name'):
    bucket.mirror('gs://other-bucket/runs', '--workdir')
  server.fault = lambda *_: 403
  with pytest.raises(UserError, match=f'{ADDRESS}: no permission; give'):
    bucket.mirror(ADDRESS, '--workdir')


@pytest.mark.parametrize('fault', [503, 429, 'cut', 'lose'])
def test_a_failure_that_passes_changes_nothing(server, fault):
  """Also where a request was carried out, but its answer was lost."""
  server.fault = lambda number, *_: fault if number % 2 else None
  mirror = make_mirror(bucket._open_store(ADDRESS))
  held = bucket_lock.BucketLock(mirror)
  (mirror.folder / 'config.json').write_bytes(b'{}' * 1000)
  held.close()
  assert {name: item.data for name, item in server.objects.items()} == {'runs/a/config.json': b'{}' * 1000}


# --- The lock --------------------------------------------------------------------------------


@pytest.fixture
def fast(monkeypatch):
  monkeypatch.setattr(bucket_lock, 'RENEW', 0.02)
  monkeypatch.setattr(bucket_lock, 'STALE', 0.5)


def foreign(**process) -> bytes:
  """The lock of a process of another machine."""
  return json.dumps({'token': 'x', 'process': {'machine': 'another', 'number': 1, 'started': '0'} | process}).encode()


def test_a_second_training_is_refused_while_the_first_shows_itself(store, fast):
  mirror = make_mirror(store)
  first = bucket_lock.BucketLock(mirror)
  with pytest.raises(UserError, match=f'--workdir={ADDRESS}: another process is training there; wait for it or'):
    bucket_lock.BucketLock(mirror)
  first.close()
  bucket_lock.BucketLock(mirror).close()
  assert content(store) == {}


def test_the_lock_of_a_machine_that_vanished_is_taken_over(store, fast, capsys):
  store.write('.lock', foreign()).result()
  bucket_lock.BucketLock(make_mirror(store)).close()
  assert f'{ADDRESS}: waiting up to 0.5 s for a sign of the process that has locked' in capsys.readouterr().out


def test_the_lock_of_an_ended_process_of_this_machine_is_taken_over_without_waiting(store, monkeypatch):
  monkeypatch.setattr(bucket_lock, 'STALE', 1000.0)
  gone = bucket_lock._identity(os.getpid()) | {'started': '1'}  # its number is used again
  store.write('.lock', json.dumps({'token': 'x', 'process': gone}).encode()).result()
  bucket_lock.BucketLock(make_mirror(store)).close()
  assert content(store) == {}


def test_a_process_whose_lock_was_taken_over_writes_nothing_more(store):
  """Also before its thread, which renews the lock every 15 seconds, finds out."""
  mirror = make_mirror(store)
  held = bucket_lock.BucketLock(mirror)
  store.write('.lock', foreign()).result()
  (mirror.folder / 'log.jsonl').write_bytes(b'{}')
  with pytest.raises(UserError, match='another process has taken over this run'):
    mirror.push()
  held.close()
  assert content(store) == {'.lock': foreign()}


def test_a_lock_is_renewed_by_itself_and_found_lost_by_itself(store, fast):
  held = bucket_lock.BucketLock(make_mirror(store))
  first = store.read('.lock').result().stamp.generation
  until = time.monotonic() + 10
  while store.read('.lock').result().stamp.generation == first and time.monotonic() < until:
    time.sleep(0.01)
  assert store.read('.lock').result().stamp.generation != first
  with held._writing:
    store.write('.lock', foreign()).result()
  held._thread.join(10)
  assert not held._thread.is_alive()
  held.close()


def test_a_bucket_that_is_gone_is_not_asked_again_when_a_run_ends(server):
  mirror = make_mirror(bucket._open_store(ADDRESS))
  with pytest.raises(bucket.OutageError), bucket_lock.BucketLock(mirror):
    (mirror.folder / 'log.jsonl').write_bytes(b'{}')
    server.fault = lambda *_: 503
    try:
      mirror.push()
    finally:
      asked = server.requests
  assert server.requests == asked


def test_errors_of_other_things_stay_what_they_are(store):
  """Without a bucket nothing is taken for its outage."""
  with pytest.raises(ValueError, match=r'UNAVAILABLE: http') as error, bucket.report_outages():
    raise ValueError('UNAVAILABLE: http')
  assert not isinstance(error.value, UserError)
  make_mirror(store)
  with pytest.raises(bucket.OutageError), bucket.report_outages():
    raise ValueError('UNAVAILABLE: http')

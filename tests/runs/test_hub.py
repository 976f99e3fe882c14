"""Addresses hf://, against a server on this machine: what is taken, what is refused, and what happens without a network."""

import json
import pathlib
import time

from huggingface_hub import constants
import pytest

from dmtl_jax.basics import errors
from dmtl_jax.basics.errors import UserError
from dmtl_jax.configs import common
from dmtl_jax.jobs import train
from dmtl_jax.runs import hub, pretrained, workdir
from tests.hub_server import Repo, TOKEN

COMMIT = 'a' * 40
WEIGHTS = 'checkpoints/7/variables/d/0123abcd'
RUN = {'config.json': b'{}', 'tasks.json': b'[]', 'checkpoints/7/meta/metadata': b'{}', WEIGHTS: b'weights'}


@pytest.fixture
def repo(hub_server):
  hub_server.repos['me/run'] = Repo(RUN)
  return hub_server.repos['me/run']


@pytest.mark.parametrize(
  'text, address',
  [
    ('hf://me/run', ('me/run', 'main')),
    ('me/run.v2', ('me/run.v2', 'main')),
    ('hf://me/run@v1.0', ('me/run', 'v1.0')),
    ('hf://me/run@refs/pr/1', ('me/run', 'refs/pr/1')),
  ],
)
def test_addresses(text, address):
  assert hub.parse(text) == address


@pytest.mark.parametrize(
  'text',
  [
    'hf://run',
    'hf://a/b/c',
    'hf://me/run@',
    'hf://me/run@../../x',
    'hf://../run',
    'hf://me/a--b',
    'hf://me/..',
    'hf:// /x',
  ],
)
def test_what_is_no_address(text):
  with pytest.raises(UserError, match='not an address on the Hub; write hf://OWNER/RUN'):
    hub.parse(text)


def test_the_name_of_a_folder(tmp_path):
  snapshot = tmp_path / 'models--me--run-b' / 'snapshots' / COMMIT
  assert hub.name_of(snapshot) == f'hf://me/run-b@{COMMIT}'
  assert hub.name_of('runs/mine') == 'runs/mine'
  assert hub.public_name(snapshot) == f'hf://me/run-b@{COMMIT}'
  assert hub.public_name('/home/me/runs/mine/') == 'mine'
  assert hub.folder_of_results(snapshot) == 'runs/me--run-b'
  assert hub.folder_of_results('runs/mine') == 'runs/mine'


def test_only_the_files_of_a_run_are_downloaded(hub_server, repo):
  """Neither pickles nor programs nor names that lead out, whatever the repository lists."""
  others = ['evil.pkl', 'pytorch_model.bin', 'app.py', '../out.json', '/etc/x', 'checkpoints/7/variables/../../x']
  others += ['checkpoints/7/optimizer/d/0a', f'checkpoints/7/variables/{"a/" * 20}d/0a', 'labels.json', 'README.md']
  repo.commit(RUN | dict.fromkeys(others, b'x'))
  folder = hub.download_run('hf://me/run')
  assert {str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file()} == RUN.keys()
  assert not any(name in request for request in hub_server.requests for name in others)
  assert (folder / WEIGHTS).read_bytes() == b'weights'
  assert hub.name_of(folder) == f'hf://me/run@{repo.head}'


def test_messages_name_the_address_of_a_downloaded_run(repo, capsys, monkeypatch):
  monkeypatch.setattr(errors, 'aliases', {})
  folder = hub.download_run('hf://me/run')
  capsys.readouterr()
  errors.print_error(UserError(f'{folder}/config.json: damaged'))
  assert capsys.readouterr().err == f'Error: hf://me/run@{repo.head}/config.json: damaged\n'


def test_config_comes_last_so_that_a_part_is_no_run(hub_server, repo, monkeypatch):
  monkeypatch.setattr(time, 'sleep', lambda seconds: None)  # of the client, which tries five times
  hub_server.truncated.add(WEIGHTS)
  with pytest.raises(UserError, match=f'{WEIGHTS} did not arrive whole'):
    hub.download_run('hf://me/run')
  assert not list(pathlib.Path(constants.HF_HUB_CACHE).rglob('config.json'))
  hub_server.truncated.clear()
  assert (hub.download_run('hf://me/run') / WEIGHTS).read_bytes() == b'weights'


@pytest.mark.parametrize(
  'files, claims, sentence',
  [
    ({'model.safetensors': b'x'}, {}, 'holds no run of dmtl_jax'),
    ({name: data for name, data in RUN.items() if name != WEIGHTS}, {}, 'holds no run of dmtl_jax'),
    (RUN, {'config.json': 10**9}, 'config.json has 1000 MB, which no run needs'),
    (RUN, {'checkpoints/7/meta/metadata': 10**9}, 'meta/metadata has 1000 MB'),
    (RUN, {WEIGHTS: 10**12}, '1000.0 GB; if you trust it, download it by hand'),
    (RUN | {f'{n}.txt': b'' for n in range(3000)}, {}, 'more than 2000 files and folders'),
  ],
)
def test_hostile_repositories_are_refused_before_any_file(hub_server, files, claims, sentence):
  hub_server.repos['me/run'] = Repo(files)
  hub_server.repos['me/run'].claims = claims
  with pytest.raises(UserError, match=sentence):
    hub.download_run('hf://me/run')
  assert not any('resolve' in request for request in hub_server.requests)


def test_a_link_in_a_repository_is_a_text(repo):
  """The Hub sends where a link points to, which is no config."""
  repo.commit(RUN | {'config.json': b'../../../../etc/passwd'})
  with pytest.raises(UserError, match='not the config of a run'):
    workdir.read_config(hub.download_run('hf://me/run'))


def test_revisions(repo, capsys):
  first = repo.head
  repo.commit(RUN | {'tasks.json': b'[1]'})
  assert json.loads((hub.download_run('hf://me/run') / 'tasks.json').read_text()) == [1]
  assert f'hf://me/run: commit {repo.head}' in capsys.readouterr().out
  assert json.loads((hub.download_run(f'hf://me/run@{first}') / 'tasks.json').read_text()) == []
  with pytest.raises(UserError, match="hf://me/run: no revision 'v9'; .*/me/run/commits/main lists"):
    hub.download_run('hf://me/run@v9')


def test_a_pinned_run_in_the_cache_needs_no_listing(hub_server, repo):
  hub.download_run('hf://me/run')
  hub_server.requests.clear()
  hub.download_run(f'hf://me/run@{repo.head}')
  assert hub_server.requests == []


def test_a_config_that_another_program_fetched_is_no_run(repo):
  hub.download_file(hub.Address('me/run'), 'config.json')
  assert (hub.download_run('hf://me/run') / WEIGHTS).read_bytes() == b'weights'


def test_without_a_network_the_cache_is_used_and_said(hub_server, repo, monkeypatch, capsys):
  folder = hub.download_run('hf://me/run')
  hub_server.stop()
  capsys.readouterr()
  assert hub.download_run('hf://me/run') == folder
  assert 'failed, so that the copy in the cache is used' in capsys.readouterr().out
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  assert hub.download_run('hf://me/run') == folder
  assert 'hf://me/run: HF_HUB_OFFLINE is set, so that the copy in the cache is used' in capsys.readouterr().out
  with pytest.raises(UserError, match='HF_HUB_OFFLINE is set; unset it'):
    hub.download_run('hf://me/other')


def test_without_a_network_and_without_a_copy(hub_server):
  hub_server.stop()
  with pytest.raises(UserError, match=f'hf://me/run: the connection to {hub_server.url} failed; check it'):
    hub.download_run('hf://me/run')


def test_a_server_in_trouble(hub_server, repo, capsys):
  hub_server.status = 503
  with pytest.raises(UserError, match='the Hub answers with error 503; try again later'):
    hub.download_run('hf://me/run')


def test_who_may_read(hub_server, repo, monkeypatch):
  with pytest.raises(UserError, match='hf://me/none: no such run, or a private one; .* log in with `hf auth login`'):
    hub.download_run('hf://me/none')
  repo.private = True
  with pytest.raises(UserError, match='no such run, or a private one'):
    hub.download_run('hf://me/run')
  monkeypatch.setenv('HF_TOKEN', 'hf_wrong')
  with pytest.raises(UserError, match='does not accept the token') as caught:
    hub.download_run('hf://me/run')
  assert 'hf_wrong' not in str(caught.value)
  monkeypatch.setenv('HF_TOKEN', TOKEN)
  assert (hub.download_run('hf://me/run') / WEIGHTS).exists()


def test_a_run_of_the_hub_is_not_written_to(repo):
  folder = hub.download_run('hf://me/run')
  for name in ('hf://me/run', str(folder)):
    with pytest.raises(UserError, match='only read; choose a folder .*init_from=hf://me/run'), workdir.locked(name):
      pass


def test_a_pin_names_the_commit_and_a_resumed_run_keeps_it(hub_server, repo):
  first = f'hf://me/run@{repo.head}'
  assert pretrained.pin('hf://me/run') == first
  repo.commit(RUN)
  assert pretrained.pin('hf://me/run') == f'hf://me/run@{repo.head}' != first
  assert pretrained.pin('hf://me/run', f'hf://me/other@{COMMIT}') == f'hf://me/run@{repo.head}'
  hub_server.requests.clear()
  assert pretrained.pin('hf://me/run', first) == first
  assert pretrained.pin(first, f'hf://me/run@{COMMIT}') == first
  for source in ('', 'runs/mine', 'encoder.pth', *pretrained.HUB):
    assert pretrained.pin(source) == source
  assert hub_server.requests == []


def test_training_records_the_commit(repo, tmp_path):
  config = common.base('')
  config.init_from = 'hf://me/run'
  pinned = train.pin_weights(config, str(tmp_path))
  assert (config.init_from, pinned.init_from) == ('hf://me/run', f'hf://me/run@{repo.head}')
  config.data.update(size=(64, 96), tasks=())
  workdir.write_config(tmp_path, pinned)
  repo.commit(RUN)
  assert train.pin_weights(config, str(tmp_path)).init_from == pinned.init_from

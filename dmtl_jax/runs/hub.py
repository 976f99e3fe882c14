"""Runs on the Hugging Face Hub: `hf://OWNER/RUN[@REVISION]` as a folder of this machine, and a folder as such a run.

A run is downloaded into the cache of `huggingface_hub`, one folder per commit, and nothing of ours is written there.
Only the files of a run are taken (`RUN_FILES`); their names, number and sizes are checked before the first one. The
last is config.json, so that a folder that has it beside weights is whole.
"""

from collections.abc import Iterator
import contextlib
import errno
import itertools
import os
import pathlib
import re
from typing import NamedTuple

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub import utils as hub_utils

from dmtl_jax.basics import errors
from dmtl_jax.basics.errors import sanitize, UserError
from dmtl_jax.basics.progress import Progress, say

SCHEME = 'hf://'
MAIN = 'main'
PANEL = 'panel.png'
CARD = 'README.md'
# What a published run consists of besides its card and picture. No name leads out of the folder, and none is a pickle.
RUN_FILES = re.compile(
  r'(config|tasks|metrics(_\d{1,4})?|calibration|confusion|cost)\.json'
  r'|checkpoints/\d{1,12}/(_CHECKPOINT_METADATA|commit_success\.txt|(meta|variables)/(\w[\w.-]*/){0,3}\w[\w.-]*)',
  re.ASCII,
)
WEIGHTS = re.compile(r'checkpoints/\d+/variables/(.*/)?d/\w+', re.ASCII)
DISK = (errno.EACCES, errno.EDQUOT, errno.EPERM, errno.ENOSPC, errno.EROFS)  # errors of this machine's disk
MAX_ENTRIES = 2000  # files and folders of a repository
MAX_TEXT = 64 << 20  # bytes of a file without weights
MAX_BYTES = 4 << 30  # bytes of all files; the paper's largest network has 0.5 GB
_COMMIT = re.compile('[0-9a-f]{40}')
_REPO = re.compile(r'\w[\w.-]{0,95}/\w[\w.-]{0,95}', re.ASCII)
_REVISION = re.compile(r'\w[\w./-]{0,127}', re.ASCII)
_SNAPSHOT = re.compile(r'models--(?P<owner>[\w.-]+?)--(?P<run>[\w.-]+)/snapshots/(?P<commit>[0-9a-f]{40})', re.ASCII)


class Address(NamedTuple):
  """A repository of the Hub and a branch, tag or commit of it."""

  repo: str
  revision: str = MAIN


class UnreachableError(UserError):
  """The Hub does not answer: no network, HF_HUB_OFFLINE, or an error of the server; `reason` says which."""

  def __init__(self, name: str, reason: str, fix: str):
    super().__init__(f'{name}: {reason}; {fix}')
    self.reason = reason


def is_address(name: str | os.PathLike) -> bool:
  """Whether a name is an address on the Hub, not a path."""
  return os.fspath(name).startswith(SCHEME)


def parse(text: str) -> Address:
  """Reads OWNER/RUN[@REVISION], with or without hf:// before it; raises UserError for anything else."""
  repo, at, revision = text.removeprefix(SCHEME).partition('@')
  names = _REPO.fullmatch(repo) and not re.search(r'--|\.\.', repo)
  if not names or (at and (not _REVISION.fullmatch(revision) or '..' in revision)):
    raise UserError(
      f"'{sanitize(text)}': not an address on the Hub; write {SCHEME}OWNER/RUN, or {SCHEME}OWNER/RUN@REVISION"
    )
  return Address(repo, revision or MAIN)


def name_of(folder: str | os.PathLike) -> str:
  """hf://OWNER/RUN@COMMIT for a downloaded run, to record where results come from; any other path as it is."""
  path = pathlib.Path(folder)
  match = _SNAPSHOT.fullmatch('/'.join(path.parts[-3:]))
  return f'{SCHEME}{match["owner"]}/{match["run"]}@{match["commit"]}' if match else str(folder)


def public_name(folder: str | os.PathLike) -> str:
  """As `name_of`, for readers elsewhere: of a path only its last name."""
  name = name_of(folder)
  return name if is_address(name) else os.path.basename(os.path.abspath(name))


def local(name: str | os.PathLike) -> str:
  """The folder of a run: downloaded for an address on the Hub, otherwise the path itself."""
  return str(download_run(os.fspath(name))) if is_address(name) else os.fspath(name)


def folder_of_results(workdir: str | os.PathLike) -> str:
  """Where results of a run are written: its folder; for a downloaded one, which is only read, runs/OWNER--RUN."""
  name = name_of(workdir)
  return f'runs/{parse(name).repo.replace("/", "--")}' if is_address(name) else name


def check_folder(where: str, name: str | os.PathLike):
  """Raises UserError for a run on the Hub where one is written to; `where` begins the sentence."""
  if is_address(name) or name_of(name) != str(name):
    address = f'{SCHEME}{parse(name_of(name)).repo}'
    raise UserError(
      f'{where}={sanitize(str(name))}: a run of the Hub is only read; choose a folder of this machine '
      f'(training can start from it with --config.init_from={address})'
    )


# --- Download --------------------------------------------------------------------------------


def download_run(text: str) -> pathlib.Path:
  """Downloads a run, unless it is in the cache; the folder's name is its commit.

  Raises:
    UserError: no such run, one that this login may not read, too large, or no network and nothing in the cache.
  """
  address = parse(text)
  commit = find_commit(address, 'config.json')
  if commit != address.revision:
    say(f'{text}: commit {commit}')
  cached = _cached(address.repo, 'config.json', commit)
  if cached is None or not any(
    cached.parent.glob('checkpoints/*/variables/**/d/*')
  ):  # other programs may fetch only config.json
    sizes = _list_run(address, commit)
    with Progress(f'downloading {address.repo}', sum(sizes.values()) >> 20, 'MB') as progress, _no_bars():
      done = 0
      for name, size in sizes.items():
        if name != 'config.json':
          _fetch(address.repo, name, commit)
        done += size
        progress.update((done >> 20) - progress.done)
  folder = _finish(address, 'config.json', commit).parent
  errors.aliases[str(folder)] = name_of(folder)
  return folder


def download_file(address: Address, name: str) -> pathlib.Path:
  """Downloads a file, unless it is in the cache, into a folder whose name is its commit; raises as `download_run`."""
  return _finish(address, name, find_commit(address, name))


def find_commit(address: Address, name: str) -> str:
  """The commit that a revision is now; if the Hub does not answer, what it was when the file `name` was cached.

  Raises:
    UserError: see `download_run`.
  """
  if _COMMIT.fullmatch(address.revision):
    return address.revision
  try:
    with _hub_errors(address):
      commit = huggingface_hub.HfApi().model_info(address.repo, revision=address.revision).sha
  except UnreachableError as error:
    path = _cached(address.repo, name, address.revision)
    if path is None:
      raise
    say(f'{SCHEME}{address.repo}: {error.reason}, so that the copy in the cache is used')
    return path.parent.name
  if not commit or not _COMMIT.fullmatch(commit):
    raise UserError(f'{constants.ENDPOINT}: not an answer of the Hub; check HF_ENDPOINT')
  return commit


def _list_run(address: Address, commit: str) -> dict[str, int]:
  """{file of the run: bytes}; raises UserError if the repository holds no run, or one that is too large."""
  name = f'{SCHEME}{address.repo}@{commit}'
  with _hub_errors(address):
    tree = huggingface_hub.HfApi().list_repo_tree(address.repo, recursive=True, revision=commit)
    entries = list(itertools.islice(tree, MAX_ENTRIES + 1))
  files = {entry.path: entry.size for entry in entries if hasattr(entry, 'size')}
  sizes = {path: size for path, size in files.items() if RUN_FILES.fullmatch(path)}
  if len(entries) > MAX_ENTRIES:
    raise UserError(f'{name}: more than {MAX_ENTRIES} files and folders; a run has fewer')
  if not ({'config.json', 'tasks.json'} <= sizes.keys() and any(map(WEIGHTS.fullmatch, sizes))):
    raise UserError(f'{name}: holds no run of dmtl_jax (config.json, tasks.json, checkpoints/); check the address')
  for path, size in sizes.items():
    if size > MAX_TEXT and not WEIGHTS.fullmatch(path):
      raise UserError(f'{name}: {path} has {size / 1e6:.0f} MB, which no run needs; nothing was downloaded')
  if sum(sizes.values()) > MAX_BYTES:
    raise UserError(
      f'{name}: {sum(sizes.values()) / 1e9:.1f} GB; if you trust it, download it by hand and give its folder'
    )
  return sizes


def _finish(address: Address, name: str, commit: str) -> pathlib.Path:
  """Fetches the last file by the revision's own name, by which the cache finds the commit without a network."""
  path = _fetch(address.repo, name, address.revision)
  if address.revision != commit and path.parent.name != commit:
    raise UserError(f'{SCHEME}{address.repo}: changed while it was downloaded; run again')
  return path


def _fetch(repo: str, name: str, revision: str) -> pathlib.Path:
  """A file of a repository in the cache, downloaded if missing."""
  try:
    with _hub_errors(Address(repo, revision)):
      return pathlib.Path(huggingface_hub.hf_hub_download(repo, name, revision=revision))
  except UnreachableError as error:
    raise UserError(f'{SCHEME}{repo}: {name} did not arrive whole ({error.reason}); run again') from error


def _cached(repo: str, name: str, revision: str) -> pathlib.Path | None:
  path = huggingface_hub.try_to_load_from_cache(repo, name, revision=revision)
  return pathlib.Path(path) if isinstance(path, str) else None


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
  """The client's own progress bars, one per file, stay hidden."""
  hidden = hub_utils.are_progress_bars_disabled()
  hub_utils.disable_progress_bars()
  try:
    yield
  finally:
    if not hidden:
      hub_utils.enable_progress_bars()


# --- Upload ----------------------------------------------------------------------------------


def upload(folder: pathlib.Path, repo: str, private: bool, message: str) -> str:
  """Makes the files of a folder the content of a run on the Hub, in one commit, and returns the commit.

  The repository is made if it is not there. Files of an earlier run in it are replaced or deleted.

  Args:
    private: whether only its owner may read it.

  Raises:
    UserError: no login or no right to write, a repository that holds something else, or no network.
  """
  names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob('*')) if path.is_file()]
  api = huggingface_hub.HfApi()
  with _hub_errors(Address(repo), write=True), _no_bars():
    before = _files_before(api, repo, private)
    stale = [name for name in before if RUN_FILES.fullmatch(name) or name == PANEL]
    operations = [
      *(huggingface_hub.CommitOperationAdd(name, str(folder / name)) for name in names),
      *(huggingface_hub.CommitOperationDelete(name) for name in sorted(set(stale) - set(names))),
    ]
    try:
      return api.create_commit(repo, operations, commit_message=message).oid
    except ValueError as error:
      if CARD not in str(error):  # its check comes before anything is sent
        raise
      reason = ' '.join(str(error).split())
      raise UserError(f'{repo}: the Hub refuses the card ({sanitize(reason)}); check --license') from error


def _files_before(api: huggingface_hub.HfApi, repo: str, private: bool) -> list[str]:
  """The files of a repository that can take a run; it is made if it is not there."""
  try:
    info = api.model_info(repo)
  except hub_utils.RepositoryNotFoundError:
    api.create_repo(repo, private=private)
    return []
  if private and not info.private:
    raise UserError(f'--private: {repo} is public already; make it private in its settings on the Hub first')
  names = [entry.rfilename for entry in info.siblings or ()]
  if not ({'config.json', 'tasks.json'} <= set(names) or set(names) <= {'.gitattributes', CARD, 'LICENSE'}):
    raise UserError(f'--to={repo}: holds something else than a run of dmtl_jax; choose another name')
  return names


# --- Errors ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _hub_errors(address: Address, write: bool = False) -> Iterator[None]:
  """Turns the client's errors into a UserError; texts of the server and of requests, which hold tokens, stay out."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    packages = ('huggingface_hub', 'httpx', 'httpx2', 'requests', 'urllib3')
    if not isinstance(error, (OSError, RuntimeError)) and type(error).__module__.split('.')[0] not in packages:
      raise
    raise _as_sentence(address, error, write) from error


def _as_sentence(address: Address, error: Exception, write: bool) -> UserError:
  name, page = f'{SCHEME}{address.repo}', f'{constants.ENDPOINT}/{address.repo}'
  status = getattr(getattr(error, 'response', None), 'status_code', None)
  login = 'log in with `hf auth login`, or set HF_TOKEN'
  if isinstance(error, hub_utils.GatedRepoError):
    return UserError(f'{name}: its owner asks for consent to terms; give it on {page}, and {login}')
  if isinstance(error, hub_utils.RevisionNotFoundError):
    return UserError(f"{name}: no revision '{address.revision}'; {page}/commits/{MAIN} lists those there are")
  if isinstance(error, hub_utils.RepositoryNotFoundError):
    if write:
      return UserError(f'{name}: cannot be made or written; {login} to a token that may write there')
    return UserError(f'{name}: no such run, or a private one; check the name, and for a private one {login}')
  if isinstance(error, hub_utils.EntryNotFoundError) and status == 404:
    return UserError(f'{name}: a file that was listed is gone; run again')
  if status == 401:
    return UserError(f'{name}: the Hub asks for a login, or does not accept the token; {login} to a valid one')
  if status == 403:
    return UserError(f'{name}: the token has no right to {"write" if write else "read"} it; {login} to one that has')
  if status:
    return UnreachableError(name, f'the Hub answers with error {status}', 'try again later')
  if constants.HF_HUB_OFFLINE:
    return UnreachableError(name, 'HF_HUB_OFFLINE is set', 'unset it to download what the cache does not have')
  if isinstance(error, OSError) and error.errno in DISK:
    place = constants.HF_HUB_CACHE
    return UserError(f'{place}: cannot be written ({os.strerror(error.errno)}); HF_HOME can name another place')
  return UnreachableError(name, f'the connection to {constants.ENDPOINT} failed', 'check it and run again')

"""`--mode=import` from the command line: three tools' exports joined, checked, and what is printed."""

import json
import sys

import pytest

from dmtl_jax import cli
from dmtl_jax.configs import folder
from dmtl_jax.jobs import check
from tests import exports


@pytest.fixture
def command(tmp_path, fresh_flags, monkeypatch, capsys):
  """Runs --mode=import in a folder with photographs a to d; returns the status and what was printed."""
  monkeypatch.chdir(tmp_path)
  for seed, name in enumerate('abcd'):
    exports.photo(tmp_path / 'photos', f'{name}.jpg', seed=seed)

  def run(*arguments: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, 'argv', ['main.py', '--mode=import', *arguments])
    fresh_flags()
    status = cli.main(sys.argv)
    output = capsys.readouterr()
    return status, output.out + output.err

  return run


MINE = ('--images=photos', '--config.data.path=mydata')


def test_three_exports_become_one_folder_that_check_reads(command, tmp_path):
  exports.write(tmp_path / 'coco', 'coco')
  for image in 'bc':
    source = exports.write(tmp_path / image, 'labelme')
    source.write_text(source.read_text().replace('a.jpg', f'{image}.jpg'))
    source.rename(source.with_name(f'{image}.json'))
  (tmp_path / 'val').mkdir()
  content = json.dumps(exports.coco()).replace('a.jpg', 'd.jpg')
  (tmp_path / 'val' / 'instances_val.json').write_text(content)
  status, text = command('--from=val', *MINE)
  assert status == 0
  assert 'COCO: 1 image in the export; 4 photographs in mydata (4 linked, not copied)' in text
  assert '  semseg: 1 label: unlabelled 50%, road 43.8%, car 6.25% of the pixels\n' in text
  assert 'next: dmtl --mode=check --config=configs/folder.py --config.data.path=mydata' in text
  assert command('--from=coco', *MINE)[0] == 0
  assert command('--from=b', *MINE)[0] == 0
  status, text = command('--from=c', *MINE)
  assert 'boxes, lines and points, left out: 1\n' in text
  assert status == 0
  config = folder.get_config()
  config.data.path, config.data.size = 'mydata', (16, 24)
  report = check.examine(config, str(tmp_path / 'page.png'))
  assert report.is_trainable
  assert 'train: 3 images' in report.text
  assert 'semseg: 3 labels, 50% of their pixels labelled: road 87.5%, car 12.5%' in report.text


def test_an_owner_is_told_what_undrawn_pixels_become(command, tmp_path):
  content = exports.coco()
  del content['annotations'][1]
  (tmp_path / 'x.json').write_text(json.dumps(content))
  assert 'import again with --background=NAME --force' in command('--from=x.json', *MINE)[1]
  status, text = command('--from=x.json', *MINE, '--background=rest', '--force')
  assert status == 0
  assert '--background' not in text
  content['annotations'] = []
  (tmp_path / 'x.json').write_text(json.dumps(content))
  status, text = command('--from=x.json', *MINE, '--task=saliency', '--empty')
  assert '  saliency: 1 label: no 100% of the pixels\n' in text


def test_an_owner_is_told_which_labels_an_import_keeps_and_removes(command, tmp_path):
  content = exports.coco()
  content['images'].append(content['images'][0] | {'id': 6, 'file_name': 'b.jpg'})
  drawn = content['annotations']
  (tmp_path / 'x.json').write_text(json.dumps(content | {'annotations': [*drawn, drawn[0] | {'image_id': 6}]}))
  assert command('--from=x.json', *MINE)[0] == 0
  (tmp_path / 'x.json').write_text(json.dumps(content))
  status, text = command('--from=x.json', *MINE)
  assert status == 0
  assert 'images without a drawn region that keep the label they had, which --force removes: 1 (b)' in text
  assert 'labels removed, as nothing is drawn any more: 1 (b)' in command('--from=x.json', *MINE, '--force')[1]
  (tmp_path / 'x.json').write_text(json.dumps(exports.coco()).replace('a.jpg', 'c.jpg'))
  text = command('--from=x.json', *MINE, '--force')[1]
  assert 'images not in the export or not among --images, which keep the label they had: 1 (a)' in text


def test_nyu_needs_no_photographs(command, tmp_path):
  pytest.importorskip('h5py')
  exports.nyu(tmp_path / 'nyu.mat')
  status, text = command('--from=nyu.mat', '--config.data.path=mydata')
  assert status == 0
  assert 'NYU Depth v2: 2 images in the export; 2 photographs in mydata (2 written)' in text
  assert '  depth: 2 labels\n' in text
  status, text = command('--from=nyu.mat', '--images=photos', '--config.data.path=mydata')
  assert (status, text) == (1, 'Error: --images: the export of NYU Depth v2 holds its photographs; leave it out\n')


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (('--images=photos',), '--mode=import needs --from; see --help'),
    (
      ('--from=x.json', '--images=photos'),
      'config.data.path: give the folder to write to with --config.data.path=PATH',
    ),
    (('--from=x.json', '--config.data.path=mydata'), '--mode=import needs --images, the folder of the photographs'),
    (('--from=nowhere', *MINE), '--from=nowhere: no such file or folder; give what the labelling tool exported'),
    (
      ('--from=x.json', '--images=photos', '--config=scenes'),
      "writes a folder of images, not 'scenes'; leave out --config",
    ),
    (('--from=s3://x', *MINE), "--from: 's3://x' is an address"),
    (('--from=x.json', *MINE, '--colors=nowhere'), '--colors=nowhere: no such file'),
  ],
)
def test_flags_that_do_not_fit_are_refused(arguments, message, command, tmp_path):
  (tmp_path / 'x.json').write_text(json.dumps(exports.coco()))
  status, text = command(*arguments)
  assert status == 1
  assert message in text


def test_the_help_says_what_is_read(command, capsys):
  status, text = command('--help')
  assert status == 0
  assert 'Cityscapes, NYU' in text
  assert '--annotated' in text

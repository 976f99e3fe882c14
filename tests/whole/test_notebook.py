"""The quickstart notebook runs top to bottom."""

import os
import pathlib

import nbclient
import nbformat

NOTEBOOK = pathlib.Path(__file__).resolve().parents[2] / 'colabs' / 'quickstart.ipynb'


def test_quickstart_runs(tmp_path, monkeypatch):
  for name, value in {'STEPS': '2', 'IMAGES': '16', 'WORKDIR': str(tmp_path / 'run'), 'TINY': '1'}.items():
    monkeypatch.setenv(f'QUICKSTART_{name}', value)
  monkeypatch.setenv('MPLBACKEND', 'agg')
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  assert not any(cell.get('outputs') for cell in notebook.cells), 'commit the notebook without outputs'
  client = nbclient.NotebookClient(notebook, timeout=300, resources={'metadata': {'path': str(NOTEBOOK.parent)}})
  client.execute()
  assert os.path.exists(tmp_path / 'run' / 'metrics.json')

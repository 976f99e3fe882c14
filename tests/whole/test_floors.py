"""The house: which room may use which. Imports point down, and no two files need each other."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2] / 'dmtl_jax'
# From the ground up. Rooms on one floor do not know each other.
FLOORS = (
  ('basics',),
  ('draw', 'metrics'),
  ('tasks',),
  ('datasets', 'models'),
  ('configs',),
  ('data',),
  ('runs',),
  ('inference',),
  ('imports', 'report', 'training'),
  ('jobs',),
  ('api', 'cli_flags'),
  ('cli',),
  ('__main__',),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imports() -> dict[str, set[str]]:
  """{module: modules of ours that it imports, anywhere in the file}."""
  files = {}
  for path in [*ROOT.glob('*.py'), *(p for room in FLOOR for p in (ROOT / room).rglob('*.py'))]:
    parts = ('dmtl_jax', *path.relative_to(ROOT).with_suffix('').parts)
    files['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
  used_by = {}
  for module, path in files.items():
    used = set()
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'dmtl_jax':
        names = [f'{node.module}.{alias.name}' for alias in node.names]
        used |= {name if name in files else node.module for name in names}
      elif isinstance(node, ast.Import):
        used |= {alias.name for alias in node.names if alias.name in files}
    used_by[module] = used
  return used_by


def room(module: str) -> str:
  return module.split('.')[1] if '.' in module else ''


def test_every_room_has_a_floor_and_says_what_it_is_for():
  rooms = [p for p in ROOT.iterdir() if p.is_dir() and p.name != '__pycache__']
  assert {p.name for p in rooms} | {'api', 'cli', 'cli_flags', '__main__'} == set(FLOOR)
  for path in rooms:
    assert ast.get_docstring(ast.parse((path / '__init__.py').read_text())), path


def test_imports_point_down():
  wrong = [
    f'{module} -> {used}'
    for module, all_used in imports().items()
    for used in all_used
    if room(module) and room(used) != room(module) and FLOOR[room(used)] >= FLOOR[room(module)]
  ]
  assert not wrong, wrong


def test_no_circles():
  graph, done = imports(), set()

  def visit(module, path):
    assert module not in path, ' -> '.join([*path, module])
    if module not in done:
      for used in graph[module]:
        visit(used, [*path, module])
      done.add(module)

  for module in graph:
    visit(module, [])

"""Data sets, a folder each. config.data.name is the folder's name; nothing else in the project names them.

A package has

  open_split(data_config, split)  `source.Source` of 'train' or 'val', with every label there is
  TASKS    its tasks; or tasks(data_config), where they depend on the config
  Builder  where --mode=prepare makes it of raw files: a `raw.RawBuilder` (scenes' own Builder is none)

and a README.md that tells where its data come from. `stored.py` serves those that TFDS stores.
"""

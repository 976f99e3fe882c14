"""Data sets, one package each. config.data.name is the name of the package; no other code names them.

A package has

  open_split(data_config, split)  `source.Source` of 'train' or 'val', with all labels
  TASKS    its tasks; or tasks(data_config) if they depend on the config
  Builder  a `raw.RawBuilder`, if --mode=prepare builds it from raw files (that of scenes needs none)

and a README.md that says where its data come from. `stored.py` opens data sets that TFDS stores.
"""

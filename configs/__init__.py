"""One config a data set: `get_config(arg)` gives the whole description of a run."""

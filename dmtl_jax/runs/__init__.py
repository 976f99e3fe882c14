"""The folder of one run: config, checkpoints, log; and weights from elsewhere."""

"""DiffusionMTL (CVPR 2024) in JAX: dense multi-task learning from partially labelled images."""

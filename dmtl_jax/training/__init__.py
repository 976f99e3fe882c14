"""What the train job consists of: set-up, step, optimiser, periodic evaluation, bad numbers."""

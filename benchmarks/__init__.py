"""Speed, work and memory of the network, and PyTorch beside it; run from a checkout, see docs/performance.md."""

"""What can be benchmarked: data sets, backbones, heads and metrics."""

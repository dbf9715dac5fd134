"""Everything that needs the truth: data, targets, losses, trainer, metrics."""

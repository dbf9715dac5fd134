"""Everything that changes weights: collator, losses, trainer, recipes, LoRA, planner."""

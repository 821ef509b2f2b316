"""Answers of a model, dense or pruned: tasks, generation, likelihoods, perplexity, recovery by LoRA."""

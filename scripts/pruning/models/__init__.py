"""The dense model: where it comes from, its weights on disk, loading it."""

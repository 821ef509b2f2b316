"""From measurements to a smaller model: scores, normalisation, allocation, compensation, compaction."""

"""Datasets: fetching or generating them, rendering and tokenising text, finding test items in it."""

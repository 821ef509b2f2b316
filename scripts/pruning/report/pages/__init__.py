"""Pages to read in a browser, one file each: `values(files, settings, output)` gives what its template shows.

files: `Files`, by the names that its rule gives them. settings: the job's. output: where the page will lie, for links.
"""

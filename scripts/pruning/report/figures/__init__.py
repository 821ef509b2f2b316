"""The figures, one module each, with `draw(tables, settings) -> Figure`; scripts/figure.py finds them by name.

`tables` maps the names that a module's docstring lists to data frames as the analyses wrote them. `settings` holds
`methods` and `models`, which are drawn in that order, and the figure's own keys. Sparsities
are fractions. To add a figure, add a file here.
"""

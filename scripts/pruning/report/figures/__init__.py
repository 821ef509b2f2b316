"""The figures, one module each, with `draw(tables, settings) -> Figure`; scripts/figure.py finds them by name.

`tables` maps names to data frames as the analyses wrote them (sparsities are fractions), with the columns that `draw`
asks `style.table` for. `settings` holds `methods` and `models`, which are drawn in that order, and the figure's own
keys. To add a figure, add a file here and an entry in report/catalogue.py.
"""

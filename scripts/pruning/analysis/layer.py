"""The one layer that tables and figures show more of: see core/layer.py."""

from pruning.core.layer import chosen as chosen

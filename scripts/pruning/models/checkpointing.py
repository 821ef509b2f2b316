"""Memory for time: layers that are computed again in a backward pass instead of being kept."""

from torch import nn

from pruning.core.errors import InputError


def checkpoint_gradients(model: nn.Module, whole_layers: bool = False) -> None:
    """Recompute each layer in the backward passes instead of holding its graph: less memory, one more forward a pass.

    whole_layers: to the end of the layer, though its last product is not needed, so that each module of it is left
    again: one that is on disk lets go of its weights then.
    transformers checkpoints in train mode only, which changes nothing without dropout (InputError with it)."""
    if any(module.p > 0 for module in model.modules() if isinstance(module, nn.Dropout)) or getattr(
        model.config, "attention_dropout", 0
    ):
        raise InputError("gradient_checkpointing needs a model without dropout: set `gradient_checkpointing: false`")
    model.activation_checkpointing_enable({"use_reentrant": False, "early_stop": not whole_layers})
    model.disable_input_require_grads()  # the graph begins at the first down_proj input, not at the embeddings
    model.train()

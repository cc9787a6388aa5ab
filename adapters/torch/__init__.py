"""PyTorch: a drop-in for ``torch.nn.init``, whole models keyed by parameter name, and shards that equal the whole.

===============  =======================================================================================
init             ``torch.nn.init`` with other numbers and more speed, and additional initializers
patched          context in which constructors and ``reset_parameters`` use ``init``
initialize_      fills every parameter of a model by rules and returns a record
deferred         context in which constructors record their initialization instead of drawing
materialize      gives a model on the meta device its memory and its values, in its final dtype
keyed            context in which a model's own init code draws by tensor names, sharded or not
explain          compares what the recipes would do to each parameter
replay           fills a model again from a record
state_dict       a model's state dict that computes tensors, or slices of them, on request
InitReader       the same for ``torch.distributed.checkpoint.load``: each rank computes its slices
plan             the plan of a checkpoint of a model
save             a plan's checkpoint of ``torch.distributed.checkpoint``, in bounded memory
InitPlanner      the same for its ``save``: each rank computes and writes its shards
Virtual          a plan as an opened safetensors file that computes its tensors
verify           reports which parameters still match a record, and how the others changed
audit            finds bad parameters, and the layer where the signal breaks
lsuv_            layer-sequential unit variance: scales weights with a batch of data
mark_slice       marks a parameter as a slice of a larger tensor
fill_            fills one tensor, DTensor or shard with a fastinit initializer and key
===============  =======================================================================================

>>> import torch
>>> from fastinit.adapters.torch import init, initialize_
>>> weight = init.kaiming_normal_(torch.empty(256, 128))
>>> model = torch.nn.Sequential(torch.nn.Linear(128, 256), torch.nn.GELU(), torch.nn.Linear(256, 10))
>>> record = initialize_(model, "auto", seed=0)
>>> [entry.initializer.mode for entry in record if entry.fans]
['fan_in', 'fan_in']
"""

from typing import TYPE_CHECKING

import fastinit.extending  # noqa: F401 (first: detects an unrelated package that overwrote this one)
from fastinit.adapters.torch import versions as versions  # first: the next imports fail with an older torch

# isort: split
from fastinit.adapters.torch import init
from fastinit.adapters.torch.auditing import audit, lsuv_
from fastinit.adapters.torch.checkpoints import StateDict, state_dict
from fastinit.adapters.torch.deferring import deferred
from fastinit.adapters.torch.explaining import explain
from fastinit.adapters.torch.keying import Drawn, keyed
from fastinit.adapters.torch.materializing import materialize
from fastinit.adapters.torch.models import initialize_, replay
from fastinit.adapters.torch.patching import patched
from fastinit.adapters.torch.plans import plan
from fastinit.adapters.torch.slices import mark_slice
from fastinit.adapters.torch.tape import DeferralError
from fastinit.adapters.torch.tensors import fill_
from fastinit.adapters.torch.verifying import verify

if TYPE_CHECKING:
    from fastinit.adapters.torch.reading import InitReader
    from fastinit.adapters.torch.virtual import InitPlanner, Virtual, VirtualSlice, save

__all__ = [
    "DeferralError",
    "Drawn",
    "InitPlanner",
    "InitReader",
    "StateDict",
    "Virtual",
    "VirtualSlice",
    "audit",
    "deferred",
    "explain",
    "fill_",
    "init",
    "initialize_",
    "keyed",
    "lsuv_",
    "mark_slice",
    "materialize",
    "patched",
    "plan",
    "replay",
    "save",
    "state_dict",
    "verify",
]


def __getattr__(name: str) -> object:
    """Imports names on first use that need torch.distributed, which some builds of torch lack."""
    if name == "InitReader":
        from fastinit.adapters.torch.reading import InitReader

        return InitReader
    if name in ("InitPlanner", "Virtual", "VirtualSlice", "save"):
        from fastinit.adapters.torch import virtual

        return getattr(virtual, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

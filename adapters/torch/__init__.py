"""PyTorch: a drop-in for ``torch.nn.init``, whole models keyed by parameter name, and shards that equal the whole.

===============  =======================================================================================
init             ``torch.nn.init`` with other numbers and more speed, and the initializers that it lacks
patched          inside, modules' own constructors and ``reset_parameters`` use it
initialize_      every parameter of a model, by rules; gives a record
deferred         inside, constructors draw nothing, and parameters on the meta device carry their own initialization
materialize      gives a model on the meta device its memory and its values, in its final dtype
keyed            inside, a model's own init code draws by the names of the tensors that it fills, sharded or not
explain          what the recipes would do to each parameter, side by side
replay           fills a model again as a record says
state_dict       a model's state dict whose tensors, or slices of them, are computed when asked for
InitReader       the same for ``torch.distributed.checkpoint.load``: each rank computes its slices
verify           which parameters still hold what a record says, and what became of the others
audit            what is wrong with a model's parameters, and where its signal breaks
lsuv_            layer-sequential unit variance: scales weights by what a batch shows
mark_slice       says of which larger tensor a parameter is a slice, and which one
fill_            one tensor, DTensor or shard with a fastinit initializer and key
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

import fastinit.extending  # noqa: F401 (first: names an unrelated package that lies over this one)
from fastinit.adapters.torch import versions as versions  # first: what follows fails in an older torch

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

__all__ = [
    "DeferralError",
    "Drawn",
    "InitReader",
    "StateDict",
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
    "state_dict",
    "verify",
]


def __getattr__(name: str) -> object:
    """What needs torch.distributed, which not every torch has, is imported when it is asked for."""
    if name == "InitReader":
        from fastinit.adapters.torch.reading import InitReader

        return InitReader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

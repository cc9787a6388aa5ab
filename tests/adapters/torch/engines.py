"""Layers of tensor-parallel engines as Megatron writes them: ordinary tensors, of which each rank holds a slice.

They say what they hold in ``fastinit_slices``; nothing here imports fastinit. `gathered` puts the parts of all ranks
together again, as the engine's own checkpoints do.
"""

import functools

import torch
from torch import nn


def normal(std):
    """An init method, as Megatron's arguments name it."""
    return functools.partial(nn.init.normal_, mean=0.0, std=std)


class ColumnParallelLinear(nn.Module):
    """Rows of the weight, ``outputs / ranks`` of them: of packed weights as many of each of the `packed` parts."""

    def __init__(self, inputs, outputs, rank, ranks, init_method, packed=1):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs // ranks, inputs))
        self.bias = nn.Parameter(torch.empty(outputs // ranks))
        self.init_method, self.packed = init_method, packed
        part, mine = outputs // packed, outputs // packed // ranks
        rows = [range(part * number + mine * rank, part * number + mine * (rank + 1)) for number in range(packed)]
        if packed == 1:
            self.fastinit_slices = {
                "weight": ((outputs, inputs), (mine * rank, 0)),
                "bias": ((outputs,), (mine * rank,)),
            }
        else:
            self.fastinit_slices = {
                "weight": ((outputs, inputs), None, (rows, [range(inputs)])),
                "bias": ((outputs,), None, (rows,)),
            }
        self.reset_parameters()

    def reset_parameters(self):
        self.init_method(self.weight)
        nn.init.zeros_(self.bias)

    def gathered(self, parts, role):
        split = [part.chunk(self.packed) for part in parts]
        return torch.cat([rows[number] for number in range(self.packed) for rows in split])


class RowParallelLinear(nn.Module):
    """Columns of the weight, and the whole bias."""

    def __init__(self, inputs, outputs, rank, ranks, init_method):
        super().__init__()
        mine = inputs // ranks
        self.weight = nn.Parameter(torch.empty(outputs, mine))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.init_method = init_method
        self.fastinit_slices = {"weight": ((outputs, inputs), (0, mine * rank))}
        self.reset_parameters()

    def reset_parameters(self):
        self.init_method(self.weight)
        nn.init.uniform_(self.bias, -0.1, 0.1)

    def gathered(self, parts, role):
        return torch.cat(parts, 1) if role == "weight" else parts[0]


class VocabParallelEmbedding(nn.Module):
    """Rows of the table."""

    def __init__(self, words, width, rank, ranks, init_method):
        super().__init__()
        mine = words // ranks
        self.weight = nn.Parameter(torch.empty(mine, width))
        self.init_method = init_method
        self.fastinit_slices = {"weight": ((words, width), (mine * rank, 0))}
        self.reset_parameters()

    def reset_parameters(self):
        self.init_method(self.weight)

    def gathered(self, parts, role):
        return torch.cat(parts)


class GroupedExperts(nn.Module):
    """Experts dealt to ranks, their weights in one tensor: [experts / ranks, inputs, outputs]."""

    def __init__(self, experts, inputs, outputs, rank, ranks, init_method):
        super().__init__()
        mine = experts // ranks
        self.up = nn.Parameter(torch.empty(mine, inputs, outputs))
        self.down = nn.Parameter(torch.empty(mine, outputs, inputs))
        self.init_method = init_method
        self.fastinit_slices = {
            "up": ((experts, inputs, outputs), (mine * rank, 0, 0)),
            "down": ((experts, outputs, inputs), (mine * rank, 0, 0)),
        }
        self.reset_parameters()

    def reset_parameters(self):
        self.init_method(self.up)
        nn.init.xavier_uniform_(self.down)

    def gathered(self, parts, role):
        return torch.cat(parts)


class Layer(nn.Module):
    """Attention with packed projections, a gated MLP, and experts."""

    def __init__(self, width, rank, ranks, experts):
        super().__init__()
        own = rank, ranks
        self.norm = nn.LayerNorm(width)
        self.qkv = ColumnParallelLinear(width, 3 * width, *own, normal(0.02), packed=3)
        self.proj = RowParallelLinear(width, width, *own, normal(0.01))
        self.gate_up = ColumnParallelLinear(width, 4 * width, *own, nn.init.xavier_normal_, packed=2)
        self.down = RowParallelLinear(2 * width, width, *own, nn.init.kaiming_uniform_)
        self.experts = GroupedExperts(experts, width, 2 * width, *own, normal(0.02))


class Transformer(nn.Module):
    """A decoder whose head is tied to its words."""

    def __init__(self, rank=0, ranks=1, width=16, words=40, layers=2, experts=8):
        super().__init__()
        self.words = VocabParallelEmbedding(words, width, rank, ranks, normal(0.02))
        self.layers = nn.ModuleList(Layer(width, rank, ranks, experts) for _ in range(layers))
        self.head = ColumnParallelLinear(width, words, rank, ranks, normal(0.02))
        self.tie()

    def tie(self):
        """One tensor, once more where to_empty() made two."""
        self.head.weight = self.words.weight

    def init_weights(self):
        """The same once more, where memory came later."""
        for module in self.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()


def gathered(model, states):
    """The whole model's parameters, of what each rank holds, by name."""
    found = {}
    for name, tensor in states[0].items():
        path, _, role = name.rpartition(".")
        owner = model.get_submodule(path)
        found[name] = owner.gathered([state[name] for state in states], role) if hasattr(owner, "gathered") else tensor
    return found

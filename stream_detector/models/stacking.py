"""M modules of one shape run in one batched product: each tensor gets a leading dimension M.

    tensors  name -> (M, …)
    rows     (S,)           the module of each of S groups of inputs
    inputs   (S, L, …)      L inputs in each group
    output   (S, L, …)      output[s] is module rows[s] applied to inputs[s]

`torch.func.vmap` turns the modules' own `forward` into batched products, so a stack gives the same results as its
modules one by one, except for rounding errors of sums.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap


class Stack(nn.Module):
    """M modules of one class, configuration and shape, in eval mode."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        """Copy the modules' tensors. Raises ValueError when they differ in shape."""
        super().__init__()
        template = copy.deepcopy(modules[0]).to("meta").eval()
        self._template = [template]  # in a list, so that its tensors, which have no values, are not registered
        tensors = stacked([module.state_dict() | dict(module.named_buffers()) for module in modules])
        self._names = list(tensors)
        for index, tensor in enumerate(tensors.values()):
            self.register_buffer(f"tensor{index}", tensor)
        self.values = sum(tensor[0].numel() for tensor in tensors.values())
        """Number of values in one module's tensors."""

    def forward(self, rows: Tensor, *inputs: Tensor) -> Tensor:
        """Run module rows[s] on inputs[s], for inputs (S, L, …); return (S, L, …)."""
        own = {name: getattr(self, f"tensor{index}")[rows] for index, name in enumerate(self._names)}

        def one(tensors: dict[str, Tensor], *parts: Tensor) -> Tensor:
            return cast(Tensor, functional_call(self._template[0], tensors, parts))

        return vmap(one)(own, *inputs)


class Method(nn.Module):
    """One method of a module as a function of the module's tensors."""

    def __init__(self, module: nn.Module, name: str) -> None:
        """`name`: the name of the method."""
        super().__init__()
        self.module = module
        self._name = name

    def forward(self, *inputs: Any) -> Any:
        """Call the method."""
        return getattr(self.module, self._name)(*inputs)

    def of(self, tensors: Mapping[str, Tensor], *inputs: Any) -> Any:
        """Call the method with the module's tensors replaced by `tensors`, named as in its state_dict."""
        return functional_call(self, {f"module.{name}": tensor for name, tensor in tensors.items()}, inputs)

    def of_each(self, tensors: Mapping[str, Tensor], *inputs: Any, shared: tuple[Any, ...] = ()) -> Any:
        """Call the method of M modules in one batched product: tensors and inputs (M, …), `shared` without the M."""

        def one(own: dict[str, Tensor], *parts: Any) -> Any:
            return self.of(own, *parts, *shared)

        return vmap(one)(dict(tensors), *inputs)


def stacked(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stack each tensor of the states along a new first dimension. Raises ValueError when shapes differ."""
    found = {}
    for name, first in states[0].items():
        parts = [state[name] for state in states]
        if any(part.shape != first.shape for part in parts):
            raise ValueError(f"tensor {name!r} differs in shape from module to module")
        found[name] = torch.stack([part.detach() for part in parts])
    return found

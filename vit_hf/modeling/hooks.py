# SPDX-License-Identifier: Apache-2.0
"""Whether someone looks at a module, so that it has to be called, and to compute all it returns, or
at the operations that it is computed by.
"""

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils import _python_dispatch

# By names that a checkpoint's code may outlive. Hooks for all modules at once:
has_global_hooks = getattr(nn.modules.module, "_has_any_global_hook", lambda: False)
is_in_dispatch_mode = getattr(_python_dispatch, "is_in_torch_dispatch_mode", lambda: True)
is_in_transform = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def has_hooks(module: nn.Module) -> bool:
    """Whether a hook of someone's sees what a module is given or returns."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def has_hooks_within(module: nn.Module) -> bool:
    """Whether a hook of someone's sees what a module or a part of it is given or returns."""
    return any(has_hooks(part) for part in module.modules())


def is_unwatched(module: nn.Module) -> bool:
    """Whether nobody sees that a module is called, or has put something in the place of that."""
    return not ("forward" in module.__dict__ or has_hooks(module) or has_global_hooks())


def is_traced() -> bool:
    """Whether operations are seen one by one: by compilers, tracers and counters, or by transforms
    of `torch.func` and forward-mode differentiation. They know PyTorch's own, and no numbers.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        or is_in_dispatch_mode()
        or is_in_transform()
        or getattr(forward_ad, "_current_level", 0) >= 0
    )

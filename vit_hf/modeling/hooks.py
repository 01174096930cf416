# SPDX-License-Identifier: Apache-2.0
"""Whether someone looks at a module, so that it has to be called, and to compute all it returns."""

from torch import nn

# Hooks for all modules at once; by a name that a checkpoint's code may outlive.
has_global_hooks = getattr(nn.modules.module, "_has_any_global_hook", lambda: False)


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

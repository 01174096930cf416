# SPDX-License-Identifier: Apache-2.0
"""The errors of settings, which say what was got, what is allowed and what is nearest to it."""

import difflib
from functools import wraps
from types import UnionType
from typing import Any, Union, get_args, get_origin

from huggingface_hub.errors import StrictDataclassError


def nearest(name: str, allowed) -> str:
    """Returns " Did you mean 'x'?" for the allowed name most like `name`, or an empty string."""
    matches = difflib.get_close_matches(str(name), [str(option) for option in allowed], n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def string_options(annotation) -> list[str]:
    """Returns the strings that an annotation allows, those of `Literal["a", "b"] | None` say."""
    options = []
    for option in get_args(annotation):
        options += [option] if isinstance(option, str) else string_options(option)
    return options


def describe(annotation) -> str:
    """Returns a type in words: `int | tuple[int, int]` as "int or (int, int)"."""
    if get_origin(annotation) is tuple:
        return f"({', '.join(describe(part) for part in get_args(annotation))})"
    if get_origin(annotation) in (UnionType, Union):
        return " or ".join(dict.fromkeys(describe(part) for part in get_args(annotation)))
    names = {type(None): "None", Ellipsis: "..."}
    return names.get(annotation) or getattr(annotation, "__name__", str(annotation))


def describe_elements(annotation) -> str:
    """Returns what a list must hold where an annotation allows one: "; a list's elements: int"."""
    lists = [part for part in get_args(annotation) if get_origin(part) is list]
    return f"; a list's elements: {describe(get_args(lists[0])[0])}" if lists else ""


def raise_value_errors(config_class: Any) -> Any:
    """Makes the errors of a `@strict` class `ValueError`s that say what was got and is allowed."""
    initialize, set_attribute, validate = (
        config_class.__init__,
        config_class.__setattr__,
        config_class.validate,
    )

    @wraps(initialize)
    def __init__(self, *args, **kwargs):
        self.refuse_unknown_names(kwargs)
        initialize(self, *args, **kwargs)

    @wraps(set_attribute)
    def __setattr__(self, name, value):
        try:
            set_attribute(self, name, value)
        except StrictDataclassError as error:
            annotation = type(self).__dataclass_fields__[name].type
            options = string_options(annotation)
            if options:
                message = (
                    f"got {name}={value!r}, allowed: {', '.join(options)}.{nearest(value, options)}"
                )
            else:
                message = (
                    f"got {name}={value!r}, allowed: {describe(annotation)}"
                    f"{describe_elements(annotation)}"
                )
            raise ValueError(message) from error

    @wraps(validate)
    def validate_with_value_error(self):
        try:
            validate(self)
        except StrictDataclassError as error:
            raise ValueError(str(error.__cause__ or error)) from error

    config_class.__init__ = __init__
    config_class.__setattr__ = __setattr__
    config_class.validate = validate_with_value_error
    return config_class

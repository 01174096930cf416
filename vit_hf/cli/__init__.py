# SPDX-License-Identifier: Apache-2.0
"""The command line, `vit-hf VERB [arguments]`: words to calls, one file per verb.

A verb's file holds a dataclass `Arguments`, whose fields are the flags, and `run(arguments)`, which
imports what it needs: reading `--help` loads no torch. A field that is not given to the dataclass's
constructor, `field(init=False, metadata={"word": nargs, "help": ...})`, is a word without a flag. A
verb that trains has `argument_classes()` in the place of `Arguments`, as transformers' own are
among them, and `run` takes one of each; `defaults(given)` are the flags' defaults, of those given.
"""

import argparse
import dataclasses
import difflib
import importlib
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import HfArgumentParser

VERBS = {
    "quickstart": "the whole life of a ViT on real images, in minutes on a CPU",
    "pretrain": "train from scratch: supervised, or by masked patch prediction without labels",
    "finetune": "fine-tune a checkpoint of any format on your images",
    "evaluate": "measure a checkpoint's accuracy",
    "convert": "move a checkpoint between vit_hf, transformers, timm and the authors' JAX files",
    "export": "write a folder that opens anywhere, and push it to the Hub",
    "doctor": "examine a dataset: classes, sizes, unreadable files, duplicates between splits",
    "recipes": "the numbers of the papers' tables, each with its source",
    "inspect": "look inside a checkpoint: the paper's figures, and a report",
    "plan": "what training a model costs: operations, memory, time, and which resource limits",
    "study": "the paper's claims at a scale that anyone can run",
    "benchmark": "how fast: against every peer in turns, and against the machine's own limit",
}
ALIKE = 0.65  # of two words, from which one is taken for a slip of the other
CALLED_ELSEWHERE = {  # flags by the names that other programs give them
    "--lr": "--learning_rate",
    "--epochs": "--num_train_epochs",
    "--batch_size": "--per_device_train_batch_size",
}
USAGE = """usage: vit-hf VERB [arguments]

verbs:
{verbs}

`vit-hf VERB --help` lists a verb's arguments; `vit-hf --version` prints the version."""


def main(words: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        words: the words after `vit-hf`; `None` takes them from the command line.

    Returns:
        The exit status: 0, or 2 for words that are not understood and input that is refused.
    """
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help"):
        print(
            USAGE.format(
                verbs="\n".join(f"  {verb:12}{summary}" for verb, summary in VERBS.items())
            )
        )
        return 0 if words else 2
    if words[0] == "--version":
        print(importlib.import_module("vit_hf.version").__version__)
        return 0
    if words[0] not in VERBS:
        return fail(
            f"got the verb {words[0]!r}, allowed: {', '.join(VERBS)}.{nearest(words[0], VERBS)}"
        )
    verb = importlib.import_module(f"vit_hf.cli.{words[0]}")
    arguments = []
    try:
        arguments = parse(verb, words)
        return verb.run(*arguments) or 0
    except BrokenPipeError:  # `| head` has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (the interpreter flushes it at the end)
        return 0
    except FloatingPointError as error:
        return fail(f"\nvit-hf {words[0]}: {error}")  # a progress bar may have left the line open
    except (ValueError, OSError) as error:
        return fail(f"vit-hf {words[0]}: {error}")
    except KeyboardInterrupt:
        fail(f"\nvit-hf {words[0]}: stopped{how_to_go_on(arguments)}")
        return 130


def how_to_go_on(arguments: list) -> str:
    """Returns the words about the newest checkpoint of a training, or of a sweep's last one, where
    there is one.
    """
    for part in arguments:
        if hasattr(part, "resume_from_checkpoint"):
            from ..training.checkpoints import LAST, find_checkpoint

            folders = [Path(part.output_dir), *Path(part.output_dir).glob("sweep/*")]
            found = [find_checkpoint(LAST, str(folder)) for folder in folders]
            newest = max(filter(None, found), key=os.path.getmtime, default=None)
            if newest is not None:
                return (
                    f"; the newest checkpoint is {newest}, and the same command with "
                    f"--resume_from_checkpoint {LAST} goes on from it"
                )
    return ""


class HelpWithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Adds a flag's default to its help, where it has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def parse(verb, words: list[str]) -> list:
    """Turns a verb and its words into the verb's arguments, one object of each of its dataclasses.

    Raises:
        SystemExit: after `--help`, and for a flag or value that is not allowed, with the nearest
            that is.
    """
    parser = make_parser(verb, words[0])
    if hasattr(verb, "defaults"):
        parser.set_defaults(**verb.defaults(given_flags(verb, words)))
    *arguments, unknown = parser.parse_args_into_dataclasses(
        words[1:], return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        flag = next((word for word in unknown if word.startswith("-")), unknown[0]).split("=")[0]
        parser.error(
            f"got {flag!r}, which is no flag of it.{nearest(flag, flags)} `--help` lists its flags"
        )
    positionals = positional_fields(verb)
    if positionals:
        *arguments, namespace = arguments
        for item in positionals:
            setattr(arguments[0], item.name, getattr(namespace, item.name))
    return arguments


def argument_classes(verb) -> list[Any]:
    """Returns the dataclasses whose fields are a verb's flags."""
    return verb.argument_classes() if hasattr(verb, "argument_classes") else [verb.Arguments]


def positional_fields(verb) -> list[dataclasses.Field]:
    """Returns the fields of a verb's arguments that are words without a flag."""
    return [
        item
        for group in argument_classes(verb)
        for item in dataclasses.fields(group)
        if "word" in item.metadata
    ]


def make_parser(verb, name: str, **options: Any) -> "HfArgumentParser":
    """Makes the parser of a verb's words; the options are further ones of it."""
    from transformers import HfArgumentParser
    from transformers.hf_argparser import string_to_bool

    classes = argument_classes(verb)
    parser = HfArgumentParser(
        classes,
        prog=f"vit-hf {name}",
        description=verb.__doc__,
        allow_abbrev=False,
        formatter_class=HelpWithDefaults,
        usage=None if len(classes) == 1 else "%(prog)s [--flag value ...]",
        **options,
    )
    parser.error = lambda message: sys.exit(fail(f"{parser.prog}: {with_nearest(message)}"))
    for action in parser._actions:
        if action.type is string_to_bool:  # transformers asks for the word true where none is so
            action.nargs, action.const = "?", True
    for item in positional_fields(verb):
        parser.add_argument(item.name, help=item.metadata["help"], nargs=item.metadata["word"])
    return parser


def given_flags(verb, words: list[str]) -> dict[str, Any]:
    """Returns the flags that are among a verb's words, with their values."""
    parser = make_parser(verb, words[0], add_help=False)
    for action in parser._actions:
        action.default, action.required = argparse.SUPPRESS, False
    return vars(parser.parse_known_args(words[1:])[0])


def with_nearest(message: str) -> str:
    """Adds to argparse's message about a value what is meant: the nearest of its choices, or two
    numbers for `HxW`.
    """
    size = re.search(r"invalid int value: '(\d+)x(\d+)'", message)
    if size:
        return f"{message}; height and width are two words: {size[1]} {size[2]}"
    choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
    return message + nearest(choice[1], re.findall(r"[\w.-]+", choice[2])) if choice else message


def nearest(word: str, allowed) -> str:
    """Returns " Did you mean 'x'?" for the allowed word that is most like `word` or begins with it,
    or an empty string.
    """
    allowed = list(allowed)
    matches = [CALLED_ELSEWHERE[word]] if CALLED_ELSEWHERE.get(word) in allowed else []
    matches = matches or difflib.get_close_matches(word, allowed, n=1, cutoff=ALIKE)
    matches = matches or [each for each in allowed if each.startswith(word)]
    return f" Did you mean {matches[0]!r}?" if matches else ""


def fail(message: str) -> int:
    """Prints an error and returns the exit status of one."""
    print(message, file=sys.stderr)
    return 2

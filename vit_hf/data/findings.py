# SPDX-License-Identifier: Apache-2.0
"""What an examination found: for each trouble a line that says what to do."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from .labels import listed

IMBALANCE = 10  # the largest class over the smallest, from which it is worth a word
TURNED = ("2", "3", "4", "5", "6", "7", "8")  # EXIF orientations


class Finding(NamedTuple):
    """One thing worth knowing.

    Attributes:
        level: `error` is what makes results wrong or has images skipped; `warning` may do harm;
            `note` is good to know.
        found: what there is.
        advice: what to do.
    """

    level: str
    found: str
    advice: str


def find_troubles(report: Mapping[str, Any], why_unlabelled: str | None) -> list[Finding]:
    """Returns the findings, errors first.

    Args:
        report: see `doctor.report_on`.
        why_unlabelled: why no label column was read.
    """
    if why_unlabelled is None:
        of_classes = troubles_with_classes(report["splits"])
    else:
        advice = "nothing for masked patch prediction; training on labels needs them"
        of_classes = [Finding("note", f"classes were not counted: {why_unlabelled}", advice)]
    found = chain(troubles_with_files(report), troubles_with_copies(report), of_classes)
    return sorted(found, key=lambda finding: ("error", "warning", "note").index(finding.level))


def troubles_with_files(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Yields what is to be said of single files."""
    if report["unreadable"]:
        yield Finding(
            "error",
            f"images that cannot be read: {named(report['unreadable'])}",
            "replace or remove them; training skips them, evaluation counts them as wrong",
        )
    if report["too_small"]:
        yield Finding(
            "warning",
            f"images smaller than a patch of {report['patch_size']} pixels: "
            + named(report["too_small"]),
            "look whether they are pictures at all; they are enlarged to the model's size",
        )
    if report["broken_exif"]:
        yield Finding(
            "warning",
            f"images with a broken EXIF block: {named(report['broken_exif'])}",
            "look whether they lie on their side; they are read as they are stored",
        )
    num_turned = sum(report["orientations"].get(tag, 0) for tag in TURNED)
    if num_turned:
        yield Finding(
            "note",
            f"images that are stored turned, and say so in their EXIF block: {num_turned}",
            "nothing here, where they are turned upright; other programs may not do so",
        )
    modes = {mode: count for mode, count in report["modes"].items() if mode != "RGB"}
    if modes:
        yield Finding(
            "note",
            f"images that are not RGB: {sum(modes.values())} ("
            + ", ".join(f"{mode} {count}" for mode, count in modes.items())
            + ")",
            "nothing; they are converted, and transparency is left aside",
        )


def troubles_with_copies(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Yields what is to be said of copies."""
    across, within, differing = [], [], []
    for copies in report["copies"]:
        images = copies["images"]
        is_across = len({image["split"] for image in images}) > 1
        (across if is_across else within).append(images)
        if len({image["label"] for image in images} - {None}) > 1:
            differing.append(images)
    if across:
        counts = Counter(image["split"] for images in across for image in images)
        yield Finding(
            "error",
            "copies in several splits: "
            + ", ".join(f"{count} in {split}" for split, count in counts.items())
            + f", {paired(across)}",
            "remove those in the training split, or the test measures memory",
        )
    if within:
        advice = "remove all but one of each"
        if len(report["splits"]) == 1:
            advice += ", before a test split is drawn and they come to lie on both sides of it"
        num_copies = sum(len(images) - 1 for images in within)
        yield Finding("warning", f"copies within a split: {num_copies}, {paired(within)}", advice)
    if differing:
        yield Finding(
            "warning",
            f"copies with different labels: {len(differing)}, " + paired(differing, by="label"),
            "give all images of a group one label, or remove them",
        )


def troubles_with_classes(splits: Mapping[str, Any]) -> Iterator[Finding]:
    """Yields what is to be said of classes and labels."""
    classes = {name for split in splits.values() for name in split["num_by_class"]}
    for name, split in splits.items():
        counts = split["num_by_class"]
        if split["num_without_label"]:
            yield Finding(
                "warning",
                f"images of {name} without a label: {split['num_without_label']}",
                "give each one, or leave them out; a test split may keep its labels secret",
            )
        if counts and len(counts) < len(classes):
            yield Finding(
                "warning",
                f"classes without an image in {name}: {listed(sorted(classes - set(counts)))}",
                "look whether images are missing; what is not trained cannot be tested",
            )
        single = [label for label, count in counts.items() if count == 1]
        if single and len(splits) == 1:
            yield Finding(
                "warning",
                f"classes with one image alone in {name}: {listed(single)}",
                "add images or leave the class out: no test split can be drawn that has it",
            )
        if counts and max(counts.values()) >= IMBALANCE * min(counts.values()):
            rarest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
            yield Finding(
                "note",
                f"unequal classes in {name}: {counts[most]} images of {most}, {counts[rarest]} of "
                f"{rarest}",
                "look at the accuracy of each class, not at the mean alone",
            )


def named(images: Sequence[Mapping[str, Any]]) -> str:
    """Counts images and names some."""
    some = ", ".join(f"{image['name']} of {image['split']}" for image in images[:3])
    return f"{len(images)} ({some}{', ...' if len(images) > 3 else ''})"


def paired(groups: Sequence[Sequence[Mapping[str, Any]]], *, by: str = "split") -> str:
    """Names two images of some groups, which differ in what `by` says where they can."""
    said = []
    for first, *others in groups[:3]:
        second = next((image for image in others if image[by] != first[by]), others[0])
        label = " ({label})" if by == "label" else ""
        said.append(
            " = ".join(f"{{name}} of {{split}}{label}".format(**image) for image in (first, second))
        )
    return "such as " + "; ".join(said)

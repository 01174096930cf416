# SPDX-License-Identifier: Apache-2.0
"""The numbers of a benchmark as lines for people."""

from collections.abc import Iterator
from typing import Any

GIB = 2**30
IDLE_SHARE = 0.15  # of the processors, which an idle machine may be busy


def lines_of(results: dict[str, Any]) -> Iterator[str]:
    """Yields the lines that tell what `run_benchmark` found."""
    machine = results["machine"]
    yield f"{title_of(results)}; {machine['device'] if is_gpu(results) else machine['cpu']}"
    yield (
        f"{'':28}{'images/s':>10}{'quartiles':>22}{'s/step':>9}{'memory':>11}  "
        "ours over it: median of the pairs (quartiles)"
    )
    for name, found in everyone(results):
        yield (
            f"{name:28}{found['images_per_second']:10.2f}{quartiles(found['spread']):>22}"
            f"{found['seconds_per_step']:9.3f}{memory(found):>11}  {ratio(found)}"
        )
        yield f"{'':28}  {settings(found)}"
    for name, reason in results["missing"].items():
        yield f"{name:28}left out: {reason}"
    yield from details(results)
    for name, found in everyone(results):
        if "profile" in found:
            yield from profile_lines(name, found["profile"])


def everyone(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the names and numbers of ours, the peers and the limits."""
    yield "ours", results["ours"]
    yield from results["peers"].items()
    for name, found in results["limits"].items():
        yield f"limit: {name.replace('_', ' ')}", found


def title_of(results: dict[str, Any]) -> str:
    """Names what was measured: `model B/16 infer float32, 224 px, batch 8`."""
    options = results["options"]
    words = [results["subject"]]
    words += [str(options[name]) for name in ("model", "mode") if name in options]
    if options.get("graph"):
        words.append(f"as an {options['graph']} graph, peers in {options['dtype']}")
    elif "dtype" in options:
        words.append(options["dtype"])
    about = [" ".join(words), f"{options['image_size']} px", f"batch {options['batch_size']}"]
    if "decoding" in results["task"]:
        about.append(f"{results['task']['decoding']} decoding")
    if options.get("patch_dropout_rate"):
        about.append(f"patch dropout {options['patch_dropout_rate']:g}")
    if options.get("gradient_checkpointing"):
        about.append("gradient checkpointing")
    if options.get("compile"):
        about.append("compiled where that is faster")
    if options.get("megapixels"):
        about.append(f"{options['megapixels']:g} megapixels")
    return ", ".join(about)


def is_gpu(results: dict[str, Any]) -> bool:
    """Whether it was measured on a GPU."""
    return results["options"]["device"] == "cuda"


def details(results: dict[str, Any]) -> Iterator[str]:
    """Yields what else has to be known of the numbers."""
    task = results["task"]
    limit = next(iter(results["limits"])).replace("_", " ")
    busy = results["machine"]["busy_share"]
    if max(busy) > IDLE_SHARE:
        yield (
            f"the machine was not idle: other work took {busy[0]:.0%} of its processors before and "
            f"{busy[1]:.0%} after; measure again without it"
        )
    shares = [("ours", results["ours"]), *results["peers"].items()]
    told = ", ".join(f"{name} {found['limit_share']:.1%}" for name, found in shares)
    yield f"of the limit ({limit}): {told}"
    if "flops_per_second" in results["ours"]:
        told = ", ".join(f"{name} {found['flops_per_second'] / 1e12:.3g}" for name, found in shares)
        yield f"10^12 operations of our matrix products a second: {told}"
    if "fast_decoding_error" in task:
        error = task["fast_decoding_error"]
        yield (
            f"fast decoding against exact: {error['mean']:.2f} of 255 levels on average, "
            f"{error['root_mean_square']:.2f} root mean square, {error['largest']:.0f} at most"
        )
    for name, found in shares:
        if "served_images_per_second" in found:
            yield f"{name}: {found['served_images_per_second']:.2f} images/s through a pipeline"
        if "input_wait_share" in found:
            yield f"{name}: waits for images {found['input_wait_share']:.1%} of the time"
        if "largest_batch_size" in found:
            yield f"{name}: {found['largest_batch_size']} images at most at once"
    for name, peer in results["peers"].items():
        if "difference" in peer:
            yield (
                f"{name}: differs from ours by {peer['difference']:.3g} "
                f"(allowed {peer['allowed_difference']:.3g})"
            )
        elif name == "vit_pytorch":
            yield f"{name}: random weights of its own, as ours do not fit it"


def profile_lines(name: str, profile: list[dict[str, Any]]) -> Iterator[str]:
    """Yields where the time of a contender's step goes."""
    yield ""
    yield f"{name}: where the time of a step goes"
    for row in profile:
        yield (
            f"  {row['share']:6.1%}{1000 * row['seconds']:11.2f} ms{row['calls']:7} x  "
            f"{row['operator'][:60]}"
        )


def quartiles(spread: list[float], digits: int = 2) -> str:
    """Returns a spread in words."""
    return f"({spread[0]:.{digits}f} to {spread[1]:.{digits}f})"


def memory(found: dict[str, Any]) -> str:
    """Returns the peak of memory in words."""
    peak = found["peak_memory_bytes"]
    return "-" if peak is None else f"{peak / GIB:.2f} GiB"


def ratio(found: dict[str, Any]) -> str:
    """Returns ours over a contender in words."""
    if "ratio" not in found:
        return ""
    return f"{found['ratio']['median']:.3f} {quartiles(found['ratio']['spread'], 3)}"


def settings(found: dict[str, Any]) -> str:
    """Returns a contender's settings in words."""
    words = [f"{name}={value}" for name, value in found["settings"].items()]
    return ", ".join([*words, f"threads={found['num_threads']}"])

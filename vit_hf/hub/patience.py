# SPDX-License-Identifier: Apache-2.0
"""Trying again, with exponential back-off, for as long as it makes sense and no longer.

`huggingface_hub` itself repeats the requests that carry files, and no others: not those that create
a repository, a branch or a commit. What it repeats differs from release to release. So what is
counted here is time: its own attempts use up the same patience, and nothing is repeated twice over.
"""

import re
import time
from collections.abc import Callable
from email.utils import mktime_tz, parsedate_tz
from json import JSONDecodeError
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from transformers.utils import logging

logger = logging.get_logger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds
# The base of every error of the HTTP library that the client uses, httpx or httpx2.
HTTPError = HfHubHTTPError.__bases__[0]
Result = TypeVar("Result")


def keep_trying(call: Callable[[], Result], *, patience: float, what: str) -> Result:
    """Calls until it goes well.

    A call is tried again after an answer of 408, 429 or 5xx and after a dropped connection, not
    before the server wants it.

    Args:
        call: what to call; it must be good for more than one call.
        patience: seconds, from the first failure on, in which it is tried again.
        what: what it does, for the log.

    Returns:
        What the call returns.

    Raises:
        Exception: of the call, where another attempt would not help or patience has run out.
    """
    pause, until = FIRST_PAUSE, None
    while True:
        try:
            return call()
        except Exception as error:
            until = until or time.monotonic() + patience
            wanted = max(pause, pause_asked_for(error))
            if not is_transient(error) or time.monotonic() + wanted > until:
                raise
            logger.warning(f"{what}: {in_one_line(error)}; trying again in {wanted:.0f} s")
        time.sleep(wanted)
        pause = min(2 * pause, LONGEST_PAUSE)


def is_transient(error: BaseException) -> bool:
    """Whether the same call may go well later."""
    status = status_of(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    return any(
        # An answer that is no JSON is a proxy's page in place of the Hub's.
        isinstance(each, (HTTPError, ConnectionError, TimeoutError, JSONDecodeError))
        and not isinstance(each, OfflineModeIsEnabled)
        for each in causes(error)
    )


def status_of(error: BaseException) -> int | None:
    """Returns the HTTP status that an error comes from; `None` where there was no answer."""
    answers = (getattr(each, "response", None) for each in causes(error))
    return next((answer.status_code for answer in answers if answer is not None), None)


def pause_asked_for(error: BaseException) -> float:
    """Returns the seconds that a server asks to wait: `Retry-After`, or the Hub's `RateLimit`."""
    answers = (getattr(each, "response", None) for each in causes(error))
    headers = next((answer.headers for answer in answers if answer is not None), {})
    wanted = headers.get("Retry-After", "").strip()
    if wanted.isdigit():
        return float(wanted)
    date = parsedate_tz(wanted)
    if date is not None:
        return max(0.0, mktime_tz(date) - time.time())
    exhausted = re.search(r"\br=0\s*;\s*t=(\d+)", headers.get("RateLimit", ""))
    return float(exhausted[1]) if exhausted else 0.0


def causes(error: BaseException | None):
    """Yields an error, and what it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


def in_one_line(error: BaseException) -> str:
    """Returns what an error says in one line, with its cause where that is the Hub's answer."""
    said = next((each for each in causes(error) if isinstance(each, HTTPError)), error)
    several = [error] if said is error else [error, said]
    return ": ".join(" ".join(str(each).split()) or type(each).__name__ for each in several)

# SPDX-License-Identifier: Apache-2.0
"""An exported folder to the Hugging Face Hub, and back again before success is reported."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.utils import validate_repo_id

from ..version import __version__
from .card import refresh_card
from .export import missing_from_export
from .patience import in_one_line, keep_trying, status_of
from .reopening import check_what_the_hub_has

PATIENCE = 300.0  # seconds in which a Hub that is down or busy is tried again
COMMIT_MESSAGE = "Upload with vit_hf"
# What an exported folder consists of; a run may keep other things in the same folder.
FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "preprocessor_config.json")
FILES += ("*.py", "parity.json", "recipe.json", "results.json", "README.md", "LICENSE*", "*.png")
BINARY = (".safetensors", ".png")


class PushError(OSError):
    """A push that did not succeed: the message says why, where the folder is, what to do."""


@dataclass(frozen=True)
class PushAccount:
    """What came of a push.

    Args:
        pushed: whether the Hub has it and it was opened again from there.
        url: where it is, `None` where it was not pushed.
        message: the same in words; where it was not pushed, why not, and where it is kept.
    """

    pushed: bool
    url: str | None
    message: str


def push(
    folder,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = COMMIT_MESSAGE,
    endpoint: str | None = None,
    patience: float = PATIENCE,
) -> str:
    """Pushes an exported folder to the Hub in one commit and opens it again from there.

    The repository and the branch are made where they are not there. The card shows how to open the
    model from the Hub from then on, unless it was edited by hand. Subfolders are not pushed.

    Args:
        folder: what `export_checkpoint` wrote.
        repo_id: `"owner/name"`, or `"name"` for the owner of the token.
        token: an access token with write rights; `None` is the one of `hf auth login` or
            `HF_TOKEN`.
        private: whether the repository is private, where it is made now.
        revision: a branch; `None` is `main`.
        commit_message: the first line of the commit.
        endpoint: the Hub's address; `None` is `HF_ENDPOINT`, or else the public Hub.
        patience: seconds, from the first failure of a request on, in which answers of 429 and 5xx
            and dropped connections are tried again.

    Returns:
        The address of the commit.

    Raises:
        ValueError: for a folder that is no exported checkpoint, and a name that is not allowed.
        PushError: where it could not be pushed, or what the Hub gives back is not what was pushed.
    """
    folder = Path(folder)
    check(folder, repo_id)
    api = HfApi(endpoint, token=token, library_name="vit_hf", library_version=__version__)
    try:
        repo_id, commit = upload(
            api,
            folder,
            repo_id=repo_id,
            private=private,
            revision=revision,
            commit_message=commit_message,
            patience=patience,
        )
        check_what_the_hub_has(
            folder, files_of(folder), repo_id=repo_id, commit=commit, api=api, patience=patience
        )
    except Exception as error:  # whatever the client and its transfer library raise
        reason = explain(error, repo_id).rstrip(".")
        raise PushError(f"{reason}. {kept(folder, repo_id, private, revision)}") from error
    return f"{api.endpoint}/{repo_id}/tree/{commit}"


def push_or_keep(
    folder,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = COMMIT_MESSAGE,
    endpoint: str | None = None,
    patience: float = PATIENCE,
) -> PushAccount:
    """Does what `push` does, and never raises: a training run does not die of its push.

    Args:
        folder: see `push`.
        repo_id: see `push`.
        token: see `push`.
        private: see `push`.
        revision: see `push`.
        commit_message: see `push`.
        endpoint: see `push`.
        patience: see `push`.

    Returns:
        What came of it.
    """
    try:
        url = push(
            folder,
            repo_id,
            token=token,
            private=private,
            revision=revision,
            commit_message=commit_message,
            endpoint=endpoint,
            patience=patience,
        )
    except Exception as error:
        return PushAccount(False, None, f"not pushed: {error}")
    return PushAccount(True, url, f"pushed: {url}, and opened again from there")


def check(folder: Path, repo_id: str):
    """Raises a `ValueError` for a folder or a name that cannot be pushed."""
    missing = missing_from_export(folder)
    if missing:
        raise ValueError(
            f"got {folder}, which is no exported checkpoint: it lacks {', '.join(missing)}. Export "
            f"it first: vit-hf export {shlex.quote(str(folder))} --output_dir FOLDER"
        )
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ValueError(
            f"got the Hub id {repo_id!r}, allowed: owner/name, of letters, digits, '-', '_' and "
            f"'.', at most 96 characters ({in_one_line(error)})"
        ) from error


def upload(
    api: HfApi,
    folder: Path,
    *,
    repo_id: str,
    private: bool | None,
    revision: str | None,
    commit_message: str,
    patience: float,
) -> tuple[str, str]:
    """Pushes a folder's files in one commit; returns the id with its owner, and the commit's hash.

    A folder that the Hub already has makes no commit: the hash is that of the last one.
    """
    repo_id = make_place(api, repo_id, private=private, revision=revision, patience=patience)
    refresh_card(folder, repo_id=repo_id)
    refuse_token(folder, api.token or get_token())
    commit = keep_trying(
        lambda: api.create_commit(
            repo_id,
            # Made anew for each attempt, so that the Hub is asked again what it already has.
            [CommitOperationAdd(name, folder / name) for name in files_of(folder)],
            commit_message=commit_message,
            revision=revision,
        ),
        patience=patience,
        what=f"pushing to {repo_id}",
    )
    return repo_id, commit.oid


def make_place(
    api: HfApi,
    repo_id: str,
    *,
    private: bool | None,
    revision: str | None,
    patience: float,
) -> str:
    """Makes the repository and the branch where they are missing; returns the id with its owner."""
    repository = keep_trying(
        lambda: api.create_repo(repo_id, private=private, exist_ok=True),
        patience=patience,
        what=f"making the repository {repo_id}",
    )
    if revision is not None and not revision.startswith("refs/"):
        keep_trying(
            lambda: api.create_branch(repository.repo_id, branch=revision, exist_ok=True),
            patience=patience,
            what=f"making the branch {revision}",
        )
    return repository.repo_id


def files_of(folder: Path) -> list[str]:
    """Returns the names of the files of a folder that are pushed."""
    return sorted({file.name for pattern in FILES for file in folder.glob(pattern)})


def refuse_token(folder: Path, token: str | bool | None):
    """Raises a `ValueError` where a file that would be pushed holds the token."""
    texts = [folder / name for name in files_of(folder) if not name.endswith(BINARY)]
    leaks = [file.name for file in texts if token and str(token).encode() in file.read_bytes()]
    if leaks:
        raise ValueError(
            f"the access token stands in {', '.join(leaks)}: take it out; give it by `hf auth "
            "login` or HF_TOKEN"
        )


def explain(error: Exception, repo_id: str) -> str:
    """Returns why a push failed, and what to do about it."""
    status = status_of(error)
    if status == 401:
        return (
            f"the Hub does not know who pushes to {repo_id} (401): log in with `hf auth login`, or "
            "pass a token with write rights (--hub_token, HF_TOKEN; "
            "https://huggingface.co/settings/tokens)"
        )
    if status == 403:
        return (
            f"the token has no right to write to {repo_id} (403): pass one that has "
            "(https://huggingface.co/settings/tokens), or choose a name under your own account"
        )
    return in_one_line(error)


def kept(folder: Path, repo_id: str, private: bool | None, revision: str | None) -> str:
    """Says where the folder is and how to push it later."""
    words = ["vit-hf", "export", str(folder), "--push_to_hub", "--hub_model_id", repo_id]
    words += [] if private is None else ["--hub_private_repo", str(private)]
    words += [] if revision is None else ["--hub_revision", revision]
    return f"Everything is kept in {folder}; push it with: {shlex.join(words)}"

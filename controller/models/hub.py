"""A Hugging Face hub: what a repository holds, by the hub's own client, and its files' bytes, by ours.

The client's download runs in a thread that nobody can end, and keeps a cache of its own; ours is cancelled like any
other task, goes on where it was cut off, and never waits for ever.
"""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from errno import EDQUOT, EFBIG, ENOSPC
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

import httpx

from controller.models.download import (
    DamagedFileError,
    HubFile,
    HubRateLimitedError,
    HubRepoGatedError,
    HubRepoNotFoundError,
    HubRevisionNotFoundError,
    HubTokenRefusedError,
    HubUnavailableError,
    NoSpaceError,
    Repository,
    TemporaryError,
)
from controller.models.model import MIB, Task
from mesh.errors import DomainError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

PUBLIC_HUB = "https://huggingface.co"
_CHUNK = MIB
_LONGEST_TEXT = 255
_MOST_TAGS = 64
_LONGEST_PAUSE_S = 300
# The hub's names of tasks, by what they begin with or are.
_TASKS = {
    "automatic-speech-recognition": Task.ASR,
    "text-to-speech": Task.TTS,
    "text-to-audio": Task.TTS,
    "text-generation": Task.LLM,
    "image-text-to-text": Task.LLM,
    "any-to-any": Task.LLM,
    "image-": Task.CV,
    "object-detection": Task.CV,
    "depth-estimation": Task.CV,
    "video-classification": Task.CV,
    "zero-shot-image": Task.CV,
    "mask-generation": Task.CV,
    "text-": Task.NLP,
    "token-classification": Task.NLP,
    "fill-mask": Task.NLP,
    "translation": Task.NLP,
    "summarization": Task.NLP,
    "question-answering": Task.NLP,
    "sentence-similarity": Task.NLP,
    "feature-extraction": Task.NLP,
}
Received = Callable[[int], None]


class Hub:
    """One hub. `silence` is how long it may say nothing; `token` is used for calls that bring none of their own."""

    def __init__(self, url: str, token: str = "", silence: timedelta = timedelta(seconds=30)) -> None:
        self._url = url.rstrip("/") or PUBLIC_HUB
        self._token = token
        self._silence_s = silence.total_seconds()

    async def describe(self, repo: str, revision: str, token: str) -> Repository:
        """The repository at the commit that `revision` names now."""
        try:
            async with asyncio.timeout(2 * self._silence_s):
                info = await asyncio.to_thread(self._model_info, repo, revision, token or self._token)
        except TimeoutError as error:
            raise self._silent() from error
        return Repository(
            repo=repo,
            commit=info.sha or revision,
            url=f"{self._url}/{repo}",
            files=tuple(_file(each) for each in info.siblings or ()),
            license=_license(info),
            languages=_languages(info),
            tags=tuple(str(tag)[:_LONGEST_TEXT] for tag in (info.tags or ())[:_MOST_TAGS]),
            task=_task(info.pipeline_tag or ""),
        )

    async def fetch(self, repository: Repository, file: HubFile, target: Path, token: str, received: Received) -> str:
        """Brings a file to `target`, from where an earlier try ended, and answers its SHA-256 in hex.

        `received` hears how many bytes came. DamagedFileError when they are not what the hub says the file is.
        """
        begin = await asyncio.to_thread(_begin, target, file)
        if begin < file.size_bytes:
            async with self._bytes(repository, file, begin, token or self._token) as answer:
                with _appending(target, answer.status_code) as out:
                    await self._write(answer, out.write, received)
        return await asyncio.to_thread(_verified, target, file)

    async def _write(self, answer: httpx.Response, write: Callable[[bytes], object], received: Received) -> None:
        with self._known_failures():
            # Pieces as they come: gathered ones would be lost when the hub breaks off.
            async for piece in answer.aiter_raw():
                await asyncio.to_thread(write, piece)
                received(len(piece))

    @asynccontextmanager
    async def _bytes(
        self, repository: Repository, file: HubFile, begin: int, token: str
    ) -> AsyncIterator[httpx.Response]:
        url = f"{repository.url}/resolve/{repository.commit}/{quote(file.path)}"
        headers = {"accept-encoding": "identity", **({"authorization": f"Bearer {token}"} if token else {})}
        if begin:
            headers["range"] = f"bytes={begin}-"
        # The token stays with the hub: httpx drops it when a file is redirected to another host.
        client = httpx.AsyncClient(timeout=self._silence_s, follow_redirects=True, trust_env=True)
        async with client:
            with self._known_failures():
                answer = await client.send(client.build_request("GET", url, headers=headers), stream=True)
            try:
                if answer.is_error:
                    raise _refusal(
                        answer.status_code, dict(answer.headers), repository.repo, repository.commit, self._url
                    )
                yield answer
            finally:
                await answer.aclose()

    def _model_info(self, repo: str, revision: str, token: str) -> "ModelInfo":
        # Loading the hub's client takes most of a second, and only downloads need it.
        from httpx2 import HTTPError, InvalidURL
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        api = HfApi(endpoint=self._url, token=token or False, library_name="aiops")
        try:
            return api.model_info(repo, revision=revision or None, files_metadata=True, timeout=self._silence_s)
        except HFValidationError as error:
            raise HubRepoNotFoundError(f"{repo!r} cannot be the name of a repository: {error}", repo=repo) from error
        except HfHubHTTPError as error:
            headers = {name.lower(): value for name, value in error.response.headers.items()}
            raise _refusal(error.response.status_code, headers, repo, revision, self._url) from error
        except (HTTPError, InvalidURL, OSError, ValueError) as error:
            raise self._away(error) from error

    @contextmanager
    def _known_failures(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as error:
            raise self._silent() from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._away(error) from error

    def _silent(self) -> HubUnavailableError:
        return HubUnavailableError(
            f"{self._url} said nothing for {self._silence_s:.0f} s; see whether it can be reached from the controller",
            url=self._url,
        )

    def _away(self, error: Exception) -> HubUnavailableError:
        return HubUnavailableError(
            f"{self._url} cannot be reached or broke off: {str(error) or type(error).__name__}; see that the "
            "controller has a way to it (AIOPS_HUB_URL, HTTPS_PROXY), or import a directory with `aiops models import`",
            url=self._url,
        )


def _refusal(status: int, headers: dict[str, str], repo: str, revision: str, url: str) -> DomainError:
    """What the hub's status and its `X-Error-Code` mean to whoever asked."""
    code, wanted = headers.get("x-error-code", ""), revision or "main"
    if code == "GatedRepo":
        return HubRepoGatedError(
            f"{repo} is gated: open {url}/{repo} signed in, accept its terms, and give a token of that account "
            "(`token`, or AIOPS_HUB_TOKEN)",
            repo=repo,
        )
    if code == "RevisionNotFound":
        return HubRevisionNotFoundError(
            f"{repo} has no branch, tag or commit {wanted!r}; see {url}/{repo}/tree/main", repo=repo, revision=wanted
        )
    if code == "RepoNotFound" or status == httpx.codes.NOT_FOUND:
        return HubRepoNotFoundError(
            f"{url} has no repository {repo}, or it is private; see how it is spelt, or give a token that may read it",
            repo=repo,
        )
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return HubTokenRefusedError(
            f"{url} refuses to give {repo} ({status}): the token is wrong, has ended, or may not read it; give another",
            repo=repo,
        )
    if status == httpx.codes.TOO_MANY_REQUESTS:
        limited = HubRateLimitedError(
            f"{url} takes no more calls for the moment; a token of your own has a higher limit"
        )
        limited.pause = _retry_after(headers.get("retry-after", ""))
        return limited
    return HubUnavailableError(
        f"{url} answered {status} for {repo}; it will be asked again", url=url, status=str(status)
    )


def _retry_after(text: str) -> timedelta:
    return timedelta(seconds=min(int(text), _LONGEST_PAUSE_S)) if text.isdecimal() else timedelta()


def _file(sibling: "RepoSibling") -> HubFile:
    if sibling.lfs is not None:
        return HubFile(sibling.rfilename, int(sibling.lfs.size), sibling.lfs.sha256, sibling.blob_id or "")
    return HubFile(sibling.rfilename, int(sibling.size or 0), "", sibling.blob_id or "")


def _license(info: "ModelInfo") -> str:
    named = getattr(info.card_data, "license_name", None) if info.card_data else None
    plain = getattr(info.card_data, "license", None) if info.card_data else None
    found = named if plain in (None, "other") and named else plain
    tagged = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
    return str(found or next(iter(tagged), ""))[:_LONGEST_TEXT]


def _languages(info: "ModelInfo") -> tuple[str, ...]:
    found: Any = getattr(info.card_data, "language", None) if info.card_data else None
    named = [found] if isinstance(found, str) else [str(each) for each in found or ()]
    return tuple(each[:8] for each in named[:64])


def _task(pipeline_tag: str) -> Task | None:
    return next((task for name, task in _TASKS.items() if pipeline_tag.startswith(name)), None)


def _begin(target: Path, file: HubFile) -> int:
    """How many bytes are there already; what cannot be a part of the file is dropped. NoSpaceError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()
    size = target.stat().st_size
    if size > file.size_bytes:
        target.write_bytes(b"")
        size = 0
    check_space(target.parent, file.size_bytes - size)
    return size


def check_space(directory: Path, needed: int) -> None:
    """NoSpaceError when so many bytes do not fit."""
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise _no_space(directory, needed)


def _no_space(directory: Path, needed: int) -> NoSpaceError:
    free = shutil.disk_usage(directory).free
    wanted = f", {needed / MIB:.0f} MB are needed" if needed else ""
    return NoSpaceError(
        f"no space in {directory}: {free / MIB:.0f} MB are free{wanted}; free some, or move AIOPS_HOME to a "
        "larger disk",
        path=str(directory),
        free_bytes=str(free),
        needed_bytes=str(needed),
    )


@contextmanager
def _appending(target: Path, status: int) -> Iterator[BinaryIO]:
    """The file open for what comes: at its end, or from the start when the hub does not go on. NoSpaceError."""
    try:
        with target.open("ab" if status == httpx.codes.PARTIAL_CONTENT else "wb") as out:
            yield out
    except OSError as error:
        if error.errno not in {ENOSPC, EDQUOT, EFBIG}:
            raise
        raise _no_space(target.parent, 0) from error


def _verified(target: Path, file: HubFile) -> str:
    if not target.exists():
        raise TemporaryError(f"{file.path} was taken away from {target.parent} while it came; it is fetched anew")
    size = target.stat().st_size
    if size < file.size_bytes:
        raise HubUnavailableError(f"the hub broke off {file.path} after {size} of {file.size_bytes} bytes")
    sha256, blob_id = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with target.open("rb") as content:
        while piece := content.read(_CHUNK):
            sha256.update(piece)
            if not file.sha256:
                blob_id.update(piece)
    expected, actual = (file.sha256, sha256.hexdigest()) if file.sha256 else (file.blob_id, blob_id.hexdigest())
    if expected and expected != actual:
        target.unlink()
        raise DamagedFileError(
            f"{file.path} came damaged: it has the checksum {actual}, the hub says {expected}; it is fetched anew",
            path=file.path,
            expected=expected,
            actual=actual,
        )
    return sha256.hexdigest()

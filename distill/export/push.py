"""The door through which an exported folder goes to the Hugging Face Hub: whole, in one commit, or
not at all.

In:  a folder of distill.export (its `verification.json` says which files, with which SHA-256), and
     a login made with `hf auth login` or HF_TOKEN, which huggingface_hub reads and this project
     never does.
Out: a model repository, private unless asked otherwise. Large files are sent one after another and
     only then named by one commit, so a kill at any moment leaves the repository's old state; the
     next run sends only what the Hub does not have yet.

Never sent: hidden files and folders, symbolic links and whatever else is no plain file (an export
holds none; where one leads can change), pickles, code. Refused: damaged files, files
verification.json does not know (but README.md and images/), secrets and this machine's paths in
texts. Files that only the repository has stay there. Files go by Git LFS also where xet is
installed: its batch answer says what is missing.
"""

import getpass
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd
from tqdm import tqdm

from configs.errors import DataError
from configs.files import read_json

VERIFICATION = "verification.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CODE = (".py", ".pyc", ".pyi", ".ipynb")
TEXTS = (".json", ".md", ".txt")
SECRETS = {
    "a Hugging Face token": r"(?<!\w)hf_[A-Za-z0-9]{16}",
    "an API key (sk-...)": r"(?<!\w)sk-[\w-]{16}",
    "an AWS access key": r"(?<!\w)AKIA[A-Z0-9]{12}",
    "a private key or certificate": r"-----BEGIN ",
}
BUGS = (
    TypeError,
    AttributeError,
    LookupError,
    NameError,
    AssertionError,
)  # ours, and no answer of the Hub's


def push(folder: Path, repository: str, public: bool = False) -> str:
    """Sends `folder` and returns the repository's URL.

    `public` counts only where the repository is new. Raises DataError.
    """
    from huggingface_hub import CommitOperationAdd

    check_name(repository)
    listed = listed_files(folder)
    files = files_to_send(folder, listed)
    for path in files.values():
        check_text(path, folder)
    with ExitStack() as stack:
        with tqdm(
            total=sum(path.stat().st_size for path in files.values()),
            desc="checking",
            unit="B",
            unit_scale=True,
            disable=None,
        ) as bar:
            operations: list[tuple[CommitOperationAdd, UploadReader]] = []
            for name, path in files.items():
                try:
                    reader = stack.enter_context(UploadReader(path))
                except OSError as error:
                    raise DataError(
                        f"{path}: cannot be read ({error.strerror}); check its permissions"
                    ) from None
                with reader.moves(bar):
                    operation = CommitOperationAdd(
                        name, reader
                    )  # reads the file once, for the digest under which it is sent
                if listed.get(name) not in (None, operation.upload_info.sha256.hex()):
                    raise DataError(
                        f"{path}: damaged, its SHA-256 is not the one in {VERIFICATION}; run "
                        "distill.export again"
                    )
                operations.append((operation, reader))
        try:
            with quiet_hub():
                return send(operations, repository, public)
        except BUGS:
            raise
        except (
            Exception
        ) as error:  # the hub's client raises its own kinds, requests' (0.36) and httpx's (2.x)
            raise DataError(f"{repository}: {cause(error)}") from error


def check_name(repository: str) -> None:
    """Raises DataError for anything but `organisation/name`."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
        valid = repository.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise DataError(
            f"{repository!r}: no name of a repository; give organisation/name, of letters, digits, "
            "'-', '_' and '.'"
        )


def listed_files(folder: Path) -> dict[str, str]:
    """The digests of `verification.json`. Raises DataError where there are none."""
    if not (folder / VERIFICATION).is_file():
        raise DataError(
            f"{folder}: no export of this project, it has no {VERIFICATION}; run distill.export "
            "and give base/, refiner/ or encoders/"
        )
    listed = read_json(folder / VERIFICATION).get("files")
    if not isinstance(listed, dict) or not listed:
        raise DataError(
            f'{folder / VERIFICATION}: has no digests under "files"; run distill.export again'
        )
    return listed


def files_to_send(folder: Path, listed: dict[str, str]) -> dict[str, Path]:
    """Paths by their names in the repository.

    Raises DataError unless they are those that `verification.json` lists, README.md and images.
    """
    files: dict[str, Path] = {}
    left_out: dict[str, str] = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(parent, name) for name in [*folders, *sorted(names)]):
            name = path.relative_to(folder).as_posix()
            if reason := why_not(path):
                left_out[name] = reason
            elif not path.is_dir():
                files[name] = path
    for name in listed:
        if name not in files:
            raise DataError(
                f"{folder / name}: listed in {VERIFICATION}, but "
                f"{left_out.get(name, 'not there')}; run distill.export again"
            )
    for name in files:
        if (
            name not in listed
            and name not in ("README.md", VERIFICATION)
            and not name.startswith("images/")
        ):
            raise DataError(
                f"{folder / name}: {VERIFICATION} does not list it; move it away, or run "
                "distill.export again"
            )
    for name, reason in left_out.items():
        if not name.rpartition("/")[2].startswith("."):
            print(f"{folder / name}: {reason}; left out")
    return files


def why_not(path: Path) -> str | None:
    """Why a file or folder is never sent."""
    mode = path.lstat().st_mode
    if path.name.startswith("."):
        return "hidden"
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "a symbolic link" if stat.S_ISLNK(mode) else "no plain file"
    suffix = path.suffix.lower() if stat.S_ISREG(mode) else ""
    return (
        "a pickle, which can run code when loaded"
        if suffix in PICKLES
        else "code"
        if suffix in CODE
        else None
    )


def check_text(path: Path, folder: Path) -> None:
    """Raises DataError where a text holds what is nobody's business: its kind if it is a secret,
    else what it is.
    """
    if path.suffix.lower() not in TEXTS:
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix.lower() == ".json":
        with suppress(ValueError):  # escapes (\/, \u65e5) hide nothing
            text += json.dumps(json.loads(text), ensure_ascii=False)
    for kind, pattern in SECRETS.items():
        if re.search(pattern, text):
            raise DataError(
                f"{path}: holds what looks like {kind}; take it out (and revoke it), then run "
                "distill.export again"
            )
    text = re.sub(
        r"\bhttps?://[^\s\"'<>)]+", "", text
    )  # an account may well be called as its owner's login
    text = re.sub(
        r"[A-Za-z0-9+/]{500,}", "", text
    )  # base64: a tokenizer's character map holds any short "/name"
    for kind, value, pattern in machine_patterns(folder):
        if re.search(pattern, text):
            raise DataError(
                f"{path}: holds {kind} {value}; take it out: give models by their hub names, then "
                "run distill.export again"
            )


def machine_patterns(folder: Path) -> Iterator[tuple[str, str, str]]:
    """What only this machine knows: kind, value, pattern."""
    places = {
        "your home folder": Path.home(),
        "the working directory": Path.cwd(),
        "the folder's own place": folder.absolute().parent,
    }
    for kind, place in places.items():
        for value in dict.fromkeys((str(place), str(place.resolve()))):
            if value != place.anchor:  # "/" is everybody's
                yield kind, value, rf"(?<![\w.-]){re.escape(value)}(?![\w-])"
    with suppress(KeyError, OSError):  # an account without a name
        user = getpass.getuser()
        yield (
            "a path with your login name",
            user,
            rf"(?<!<)[/\\]{re.escape(user)}(?![\w.-])",
        )  # "</s>" is a token


class UploadReader(io.BufferedReader):
    """An open file that moves a bar to where it is read; a part that is sent again moves it
    back.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self.size = os.fstat(self.fileno()).st_size
        self.bar: Any = None
        self.start = 0

    @contextmanager
    def moves(self, bar: Any) -> Iterator[None]:
        """The block reads this file as the bar's next part; if it does not read it, the part is
        taken off the bar.
        """
        self.bar, self.start = bar, bar.n
        yield
        self.bar = None
        if bar.n == self.start:
            bar.total -= self.size
        bar.refresh()

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if self.bar is not None:
            self.bar.update(self.start + self.tell() - self.bar.n)
        return data


def send(
    operations: "list[tuple[CommitOperationAdd, UploadReader]]", repository: str, public: bool
) -> str:
    """All that speaks to the Hub; what it raises is the client's."""
    from huggingface_hub import HfApi

    api = HfApi(library_name="sdxl-mother-tongue")
    api.whoami()  # says at once that there is no login
    url = str(api.create_repo(repository, private=not public, exist_ok=True))
    before = api.model_info(repository)
    if before.private == public:
        print(
            f"{repository}: is there already, and stays {'private' if before.private else 'public'}"
        )
    with tqdm(
        total=sum(reader.size for _, reader in operations),
        desc="sending",
        unit="B",
        unit_scale=True,
        disable=None,
    ) as bar:
        for operation, reader in operations:
            with reader.moves(bar):  # alone: in a batch, five would be sent at a time
                api.preupload_lfs_files(repository, [operation], free_memory=False)
    # From the state seen above, or not at all: another's commit in between could change files this
    # one leaves as they are.
    additions = [operation for operation, _ in operations]
    commit = api.create_commit(
        repository,
        additions,
        commit_message="Export of sdxl-mother-tongue",
        parent_commit=before.sha,
    )
    if commit.oid == before.sha:
        print(f"{url}: has these very files already, nothing to do")
    else:
        print(f"{url}: {len(operations)} files in one commit, {commit.oid}")
    return url


@contextmanager
def quiet_hub() -> Iterator[None]:
    """The client's bars and warnings (xet not used, nothing changed) are said here in other
    words.
    """
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        logging,
    )

    had_bars, verbosity = not are_progress_bars_disabled(), logging.get_verbosity()
    disable_progress_bars()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            enable_progress_bars()


def cause(error: BaseException) -> str:
    """One line: what the Hub or the network said, and what to do."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    while error.__cause__ is not None and not isinstance(
        error, HfHubHTTPError | LocalTokenNotFoundError | OfflineModeIsEnabled
    ):
        error = error.__cause__  # "Error while uploading" says less than why
    if isinstance(error, LocalTokenNotFoundError):
        return "you are not logged in to the Hugging Face Hub; run `hf auth login`"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids the network; unset it"
    if not isinstance(error, HfHubHTTPError):
        said = re.sub(
            r"\?\S+", "?...", " ".join(str(error).split())
        )  # addresses of uploads are signed
        return (
            f"it was not sent ({type(error).__name__}: {said}); check the network and run it "
            "again: what arrived is not sent twice"
        )
    status = getattr(error.response, "status_code", None)
    said = " ".join((error.server_message or "no reason given").split())
    todo = {
        401: "run `hf auth login` with a token that is valid",
        403: "give a name you may write to, or run `hf auth login` with a token that may",
        404: "check the name, and that your login may see it",
        412: "someone changed it meanwhile: look at it, then run it again",
    }
    return (
        f"the Hub refused ({status}: {said}); "
        f"{todo.get(status or 0, 'run it again: what arrived is not sent twice')}"
    )

"""lake → provider: what changed is put in place, or everything is built aside, verified and swapped in."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from qlib_crypto import __version__
from qlib_crypto.errors import SchemaError, StorageError
from qlib_crypto.lake import Lake
from qlib_crypto.provider.conversion import FIELDS, Conversion, Progress
from qlib_crypto.provider.dirty import Seen
from qlib_crypto.provider.flags import Flags
from qlib_crypto.provider.instruments import Memberships
from qlib_crypto.provider.manifest import Manifest, read_manifest
from qlib_crypto.provider.rebuild import rebuild
from qlib_crypto.provider.shards import Engine
from qlib_crypto.provider.sinks import RebuildError
from qlib_crypto.provider.summary import ConvertSummary
from qlib_crypto.provider.swap import unfinished, workplace
from qlib_crypto.provider.update import update
from qlib_crypto.provider.verify import size_problems
from qlib_crypto.settings import ProviderSettings


def convert(
    lake: Lake,
    provider_dir: Path,
    settings: ProviderSettings,
    *,
    memberships: Memberships | None = None,
    full: bool = False,
    durable: bool = True,
    changed: Sequence[Path] | None = None,
    jobs: int = 1,
    on: Engine = "local",
    progress: Progress | None = None,
) -> ConvertSummary:
    """Make the provider hold what the lake holds.

    What changed in the lake since the conversion before is put in place (`update_files.apply` says what readers see).
    Where that cannot be, because another version, other settings or nothing made what is there, because older bars
    came than its calendar has, or because files are damaged, everything is built aside and put in its place once it
    is verified. Either way gives the same bytes.

    Parameters
    ----------
    lake
        The source.
    provider_dir
        The provider, such as `qlib_data`; files in it that are no provider's stay.
    settings
        Frequencies and horizon.
    memberships
        Who was in which market when: spans [start, end) by instrument, by the market's name (`top50`).
    full
        Rebuild even when nothing changed, and also when the result holds less history than the provider has.
    durable
        Whether everything is on the disk on return; otherwise a power cut may leave less.
    changed
        The files that the lake wrote or removed since the conversion before, when the caller knows them (`Lake.seal`
        gives them): then only these are looked at, and the sizes of the provider's files are not. Rows that are not
        sealed are always looked at.
    jobs, on
        How many processes build everything anew, -1 for one a core, and where: `ray` is the Ray that runs or a local
        one, whose machines must all see the lake and the provider. An update is one process's work.
    progress
        Called with a line of text after each instrument.

    Raises
    ------
    DataError
        The lake is empty, has less history than the provider, or the new provider does not verify.
    StorageError
        The disk refuses, or another conversion is running. What is there can be read, and the next conversion goes on.
    ConfigError
        `provider_dir` holds something that no conversion wrote.

    """
    provider_dir = provider_dir.resolve()
    try:
        with workplace(provider_dir) as work:
            old = _previous(provider_dir, full=full)
            like = None if full or old is None else _made_alike(provider_dir, old, settings, sizes=changed is None)
            before = None if like is None else Seen.read(provider_dir)
            flags = Flags.read(lake)
            now = Seen.of(lake, flags, before or Seen(), changed if before else None)
            task = Conversion(
                lake, provider_dir, work, settings, memberships or {}, now, flags, old, full, durable, progress, jobs,
                on,
            )  # fmt: skip
            if like is not None and before is not None:
                with suppress(RebuildError):
                    return update(task, like, before)
            return rebuild(task)
    except OSError as error:
        raise StorageError(
            f"cannot write provider {provider_dir}: {error}; "
            + ("the next conversion puts the rest in place" if unfinished(provider_dir) else "it is as it was before")
            + ". Make room or correct permissions, then convert again"
        ) from error


def _previous(provider_dir: Path, *, full: bool) -> Manifest | None:
    """The manifest of the provider that will be replaced; one that cannot be read counts as none in a full rebuild."""
    try:
        return read_manifest(provider_dir)
    except SchemaError:
        if full:
            return None
        raise


def _made_alike(provider_dir: Path, old: Manifest, settings: ProviderSettings, *, sizes: bool) -> Manifest | None:
    """The manifest, when what is there was made as it would be made now, and files have the sizes that they should."""
    if (old.code_version, old.fields, old.settings) != (__version__, FIELDS, settings):
        return None
    return None if sizes and any(size_problems(provider_dir, old)) else old

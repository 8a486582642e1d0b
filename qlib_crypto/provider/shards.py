"""A full build in several processes, here or on Ray: instruments share nothing, each process writes its own folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from joblib import Parallel, delayed, parallel_config

from qlib_crypto.errors import ConfigError
from qlib_crypto.lake import Lake
from qlib_crypto.provider.dirty import Stored
from qlib_crypto.provider.extra_fields import Heard
from qlib_crypto.provider.flags import Flags
from qlib_crypto.provider.news import Counts, Held, News
from qlib_crypto.provider.revise import Reviser
from qlib_crypto.provider.sinks import WholeFiles
from qlib_crypto.symbols import Instrument, Interval

Engine = Literal["local", "ray"]
#: Shards a process, so that all end at about the same time.
_SHARDS = 4


@dataclass(frozen=True, slots=True)
class Build:
    """What every shard is given.

    Attributes
    ----------
    lake, stored, flags, targets
        As `Reviser` has them.
    root, origins
        As `WholeFiles` has them; all processes must see the folder.

    """

    lake: Lake
    stored: Stored
    flags: Flags
    targets: Sequence[Interval]
    root: Path
    origins: Mapping[Interval, int]

    def instruments(self, news: Sequence[News], counts: Counts) -> Iterator[tuple[Instrument, Held]]:
        """Write the files of each, and count."""
        sink = WholeFiles(self.root, self.origins)
        reviser = Reviser(self.lake, self.stored, self.flags, self.targets, sink, {}, Heard(self.lake), counts)
        yield from reviser.revise(news)

    def shard(self, news: Sequence[News]) -> tuple[list[tuple[Instrument, Held]], Counts]:
        """What one process writes."""
        counts = Counts()
        held = list(self.instruments(news, counts))
        self.lake.close()
        return held, counts


def build(
    work: Build, news: Sequence[News], counts: Counts, *, jobs: int, engine: Engine
) -> Iterator[tuple[Instrument, Held]]:
    """Write the files of every instrument; what the provider holds of each, in no order.

    Raises
    ------
    ConfigError
        Ray is asked for and not installed, or `jobs` is no number of processes.

    """
    if jobs < 1 and jobs != -1:
        raise ConfigError(f"--jobs {jobs} is no number of processes; write 1 or more, or -1 for one a core")
    if jobs == 1 and engine == "local":
        yield from work.instruments(news, counts)
        return
    count = max(jobs * _SHARDS, 1) if jobs > 0 else len(news)
    shards = [shard for at in range(count) if (shard := news[at::count])]
    call: Callable[..., object] = delayed(work.shard)
    with _on(engine):
        how = "generator_unordered" if engine == "local" else "list"
        for held, counted in Parallel(n_jobs=jobs, return_as=how)(call(shard) for shard in shards):
            counts.add(counted.bars, counted.incomplete)
            yield from held


def _on(engine: Engine) -> AbstractContextManager[object]:
    if engine == "local":
        return nullcontext()
    try:
        from ray.util.joblib import register_ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("--on ray needs Ray, which is not installed; pip install 'qlib-crypto[ray]'") from error
    register_ray()
    config: AbstractContextManager[object] = parallel_config(backend="ray")
    return config

"""Work that can be killed at any time: its state, the outputs that appear whole or not at all, and the manifest."""

import hashlib
import json
import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from camopd_jax import lock, metrics, shown
from camopd_jax.prepare import origins
from camopd_jax.prepare.origins import Origin
from camopd_jax.prepare.recipes import Messages, Stream, Unusable

WITHOUT_ANY = 100_000  # rows none of which can be used, after which no more are read


@dataclass(frozen=True)
class Order:
    """What a user asked for."""

    recipe: str
    streams: tuple[Stream, ...]  # with the sources that are read
    count: int
    seed: int
    columns: dict[str, dict[str, str]]  # by stream: wanted -> found
    limit: int  # rows of each source that are read at most; 0: all
    save_every: int  # rows between two saved states
    outputs: tuple[Path, ...]  # the prompts first

    @property
    def unfinished(self) -> Path:
        """The directory of what is not whole yet."""
        return self.outputs[0].with_name(f"{self.outputs[0].name}.unfinished")

    @property
    def manifest(self) -> Path:
        return self.outputs[0].with_suffix(".manifest.json")

    @property
    def asked(self) -> dict:
        """What shapes the outputs, the sources apart."""
        return {
            "recipe": self.recipe, "streams": [s.name for s in self.streams], "count": self.count, "seed": self.seed,
            "limit": self.limit, "columns": self.columns,
        }  # fmt: skip


@contextmanager
def begun(order: Order) -> Iterator[Path]:
    """Hold the directory of unfinished work of an order, new or that of an earlier, stopped command.

    It goes when the work is done, or ends in an error before there is anything to go on from.

    Raises:
      ValueError: if outputs are there already, or the work that is there is of another order or going on.
    """
    place = order.unfinished
    if not place.exists():
        for path in (*order.outputs, order.manifest):
            if path.exists():
                raise ValueError(f"{path}: is there already; move it away, or give another name with --out")
    held = lock.take(place / "lock", f"{place}: another process is at work on it")
    try:
        record = place / "order.json"
        asked = json.loads(json.dumps(order.asked))
        before = json.loads(record.read_text(encoding="utf-8")) if _states(place) else asked
        if before != asked:
            other = ", ".join(key for key in asked if before.get(key) != asked[key])
            raise ValueError(
                f"{place}: unfinished work of a command with another {other}; give that command again, or delete the "
                "directory"
            )
        metrics.write_json(record, asked)
        yield place
        done = True
    except BaseException:
        done = not _states(place)
        if not done:
            print(f"What was read is kept in {place}; the same command goes on from there.", flush=True)
        raise
    finally:
        held.release()
        if done:
            shutil.rmtree(place)


def _states(place: Path) -> set[Path]:
    return set(place.glob("*.json")) - {place / "order.json"}


def left(path: Path, stream: Stream) -> dict | None:
    """The state that an earlier command left of this very source."""
    state = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return state if state.get("source") == stream.source else None


def fresh(stream: Stream) -> dict:
    """The state of a source of which nothing has been read."""
    return {
        "source": stream.source, "revision": None, "licence": origins.NOT_CHECKED, "files": None, "rows": 0,
        "place": None, "done": False, "dropped": {},
    }  # fmt: skip


def opened(order: Order, stream: Stream, state: dict) -> Origin:
    """The source of a stream; at the commit, and with the files, of the state.

    Raises:
      ValueError: as `origins.open_`; or if local files are not those of the state.
    """
    columns = order.columns.get(stream.name, {})
    origin = origins.open_(stream.name, stream.source, stream.columns, columns, state["revision"])
    files = [list(f) for f in origin.files]
    if state["files"] not in (None, files):
        raise ValueError(
            f"--{stream.name}={stream.source}: its files are not those that the unfinished work read; delete "
            f"{order.unfinished} to begin anew"
        )
    state |= {"revision": origin.revision, "files": files, "licence": origin.licence}
    return origin


def read(
    order: Order, stream: Stream, origin: Origin, state: dict, use: Callable[[Messages], None], save: Callable[[], None]
) -> None:  # fmt: skip
    """Give the messages of all rows to `use`, from where the state is, and count those that cannot be used.

    `save` is called when state and all that was used are to be kept.

    Raises:
      ValueError: if the source cannot be read, or has no row that can be used.
    """
    if state["done"]:
        return
    dropped, saved = Counter(state["dropped"]), state["rows"]
    total = min(filter(None, (stream.rows, order.limit)), default=None)
    with tqdm(total=total, initial=state["rows"], desc=stream.name, unit="row", disable=None) as bar:
        for rows, place in origin.batches(state["place"]):
            rows = rows[: order.limit - state["rows"]] if order.limit else rows
            for row in rows:
                try:
                    use(stream.messages(row))
                except Unusable as why:
                    dropped[str(why)] += 1
            bar.update(len(rows))
            state |= {"rows": state["rows"] + len(rows), "place": place, "dropped": dict(sorted(dropped.items()))}
            if state["rows"] >= WITHOUT_ANY and dropped.total() == state["rows"]:
                break
            if state["rows"] == order.limit:
                break
            if state["rows"] - saved >= order.save_every:
                save()
                saved = state["rows"]
    state["done"] = True
    save()


def too_few(stream: Stream, state: dict, found: int, wanted: int, otherwise: str) -> ValueError:
    """The error that tells where the rows of a source went."""
    went = "".join(f"; {n:,} left out: {why}" for why, n in state["dropped"].items())
    return ValueError(
        f"--{stream.name}={stream.source}: {wanted:,} asked for, and {found:,} different ones are in the "
        f"{state['rows']:,} rows that were read{went}; {otherwise}"
    )


def write_rows(path: Path, rows: Iterable[dict]) -> dict:
    """Write a JSON object a line, the file whole or not at all; its rows, bytes and SHA-256."""
    staged = path.with_name(f".writing-{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, n, size = hashlib.sha256(), 0, 0
    with staged.open("wb") as file:
        for row in rows:
            line = (json.dumps(row, ensure_ascii=False) + "\n").encode()
            file.write(line)
            digest.update(line)
            n, size = n + 1, size + len(line)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
    return {"file": str(path), "rows": n, "bytes": size, "sha256": digest.hexdigest()}


def source_record(state: dict, **counts: object) -> dict:
    """What a manifest says of a source."""
    files = {"files": len(state["files"]), "bytes": sum(size for _, size in state["files"])} if state["files"] else {}
    return {
        "source": state["source"], "revision": state["revision"] or "local files, not known", **files,
        "licence": state["licence"], "read": state["rows"], **counts, "dropped": state["dropped"],
    }  # fmt: skip


def write_manifest(order: Order, outputs: list[dict], sources: dict[str, dict], **more: object) -> None:
    """The manifest beside the prompts."""
    record = {
        "recipe": order.recipe, "command": shown.line(shlex.join(["python", *sys.argv])), "seed": order.seed,
        "count": order.count, "limit": order.limit, "outputs": outputs, "sources": sources, **more,
    }  # fmt: skip
    metrics.write_json(order.manifest, record, indent=2)

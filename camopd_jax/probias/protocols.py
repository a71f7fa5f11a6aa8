"""Which notes train, and which codes are labels, by the names of the protocols that papers use."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camopd_jax.probias.notes import Entry
from camopd_jax.sources import TextError

SPLITS = ("train", "dev", "test")
PROTOCOLS = ("given", "given-dev-as-test", "caml-full", "caml-50", "clean", "top-50")
Splits = dict[str, list[Entry]]


@dataclass(frozen=True)
class Protocol:
    """A name, and the values that it needs.

    - `given`: the splits that the source says; every code of training is a label.
    - `given-dev-as-test`: for a source without a test split: its dev split is the test split, and a share of the
      patients of its training split, stratified, is the dev split.
    - `caml-full`, `caml-50`: the admissions in {train,dev,test}_{full,50}_hadm_ids.csv of CAML (Mullenbach et al.
      2018); all codes of training, or its `top` most frequent ones.
    - `clean`: stratified by patients; codes of at least `least` training notes. Edin et al. (2023) count the whole
      corpus before they split it; here dev and test say nothing, so a code near the limit can be left out.
    - `top-50`: stratified by patients; the `top` most frequent codes of training.

    In caml-50, clean and top-50 the other codes are taken from the notes of all splits, and notes that have no code
    left are left out.
    """

    name: str
    files: str  # the directory of the files of caml-full and caml-50
    least: int
    top: int
    shares: tuple[float, float, float]  # of the notes for train, dev, test, where patients are drawn
    seed: int

    def __post_init__(self):
        if self.name not in PROTOCOLS:
            raise ValueError(f"protocol {self.name!r}: allowed are {', '.join(PROTOCOLS)}")
        if len(self.shares) != 3 or min(self.shares) < 0 or not self.shares[0] or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"shares = {self.shares}: allowed are three numbers of sum 1, the first above 0")
        if self.least < 1 or self.top < 1:
            raise ValueError(f"least = {self.least}, top = {self.top}: allowed are whole numbers, 1 or more")
        if self.name.startswith("caml") and not self.files:
            raise ValueError(f"protocol {self.name}: files = '': needed is the directory of CAML's hadm_ids files")

    @property
    def fewest(self) -> int:
        """Training notes that a label needs."""
        return self.least if self.name == "clean" else 1

    @property
    def most(self) -> int:
        """Labels; 0: any number."""
        return self.top if self.name in ("caml-50", "top-50") else 0

    @property
    def closed(self) -> bool:
        """Whether codes that are no labels are taken from all notes."""
        return self.name in ("caml-50", "clean", "top-50")


def split(entries: Sequence[Entry], protocol: Protocol, left_out: dict[str, int]) -> Splits:
    """The notes of train, dev and test, of which dev or test may be empty; what is in none is counted in `left_out`.

    Raises:
      ValueError: the source or the files do not say what the protocol needs, no note trains, or a patient is in two.
    """
    if protocol.name.startswith("given"):
        found = _given(entries, protocol)
    elif protocol.name.startswith("caml"):
        found = _of_files(entries, Path(protocol.files).expanduser(), protocol.name.removeprefix("caml-"), left_out)
    else:
        found = stratified(entries, dict(zip(SPLITS, protocol.shares, strict=True)), protocol.seed)
    if not found["train"]:
        raise ValueError(f"protocol {protocol.name}: no note is in the training split; at least one is needed")
    check_patients(found)
    return found


def check_patients(splits: Mapping[str, Iterable[Entry]]) -> None:
    """Raise ValueError if a patient is in two splits."""
    seen: dict[str, str] = {}
    shared: dict[str, str] = {}
    for name, entries in splits.items():
        for entry in entries:
            if seen.setdefault(entry.patient, name) != name:
                shared.setdefault(entry.patient, f"{seen[entry.patient]} and {name}")
    if shared:
        first = next(iter(shared))
        raise ValueError(
            f"{len(shared)} patients are in two splits, such as {first} in {shared[first]}; allowed is each in one"
        )


def stratified(entries: Sequence[Entry], shares: Mapping[str, float], seed: int) -> Splits:
    """Whole patients to splits, so that each code's notes come near the shares: iterative stratification.

    Sechidis et al. (2011), with a patient's notes together: the code with the fewest notes left is served first, and
    its patients (those with most of its notes first) go where most notes of that code are wanted, then where most notes
    at all, then by chance. A code of one patient goes to the largest share; as the notes of rare codes are longer, that
    split gets somewhat fewer notes than its share.
    """
    order = np.random.default_rng(seed)
    patients: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        patients[entry.patient].append(entry)
    names = sorted(patients)
    order.shuffle(names)
    counts = {name: Counter(code for e in patients[name] for code in e.codes) for name in names}
    having: dict[str, list[str]] = defaultdict(list)
    left: Counter[str] = Counter()
    for name in names:
        left.update(counts[name])
        for code in counts[name]:
            having[code].append(name)
    splits = [name for name, share in shares.items() if share > 0]
    wanted = {code: {s: shares[s] * n for s in splits} for code, n in left.items()}
    room = {s: shares[s] * len(entries) for s in splits}
    place: dict[str, str] = {}
    queue = [(n, code) for code, n in left.items()]
    heapq.heapify(queue)
    while queue:
        n, code = heapq.heappop(queue)
        if n != left[code]:  # some of its patients went with another code
            if left[code]:
                heapq.heappush(queue, (left[code], code))
            continue
        mine = [name for name in having[code] if name not in place]
        for name in sorted(mine, key=lambda name: -counts[name][code]):
            chances = order.random(len(splits))
            best = max(range(len(splits)), key=lambda i: (wanted[code][splits[i]], room[splits[i]], chances[i]))
            place[name] = splits[best]
            room[splits[best]] -= len(patients[name])
            for other, times in counts[name].items():
                wanted[other][splits[best]] -= times
                left[other] -= times
    return {s: [e for e in entries if place[e.patient] == s] for s in shares}


def _given(entries: Sequence[Entry], protocol: Protocol) -> Splits:
    found = {name: [e for e in entries if e.split == name] for name in SPLITS}
    if sum(map(len, found.values())) < len(entries):
        raise ValueError(f"protocol {protocol.name}: the source does not say the splits; allowed are clean, top-50")
    if protocol.name == "given-dev-as-test":
        if found["test"] or not found["dev"]:
            raise ValueError(
                "protocol given-dev-as-test: allowed is a source with splits train and dev and without test; this one "
                f"has {', '.join(name for name in SPLITS if found[name]) or 'none'}"
            )
        train, dev, _ = protocol.shares
        parts = stratified(found["train"], {"train": train / (train + dev), "dev": dev / (train + dev)}, protocol.seed)
        return parts | {"test": found["dev"]}
    return found


def _of_files(entries: Sequence[Entry], directory: Path, stem: str, left_out: dict[str, int]) -> Splits:
    place: dict[str, tuple[str, str]] = {}
    for name in SPLITS:
        file = directory / f"{name}_{stem}_hadm_ids.csv"
        if not file.is_file():
            raise ValueError(f"{file}: there is no such file; it lists the admissions of the {name} split, one a line")
        for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
            where, admission = f"{file}:{number}", line.strip()
            if not admission:
                continue
            if not admission.isdecimal():
                raise TextError(where, f"{admission!r}; allowed is the number of an admission")
            if place.setdefault(admission, (name, where))[0] != name:
                raise TextError(where, f"admission {admission} is in {place[admission][1]} too; allowed is one split")
    found = {name: [e for e in entries if place.get(e.id, ("", ""))[0] == name] for name in SPLITS}
    kept = sum(map(len, found.values()))
    if not kept:
        raise ValueError(f"{directory}: none of its {len(place)} admissions is among the {len(entries)} of the source")
    unmatched = {"notes in no split file": len(entries) - kept, "ids of split files without a note": len(place) - kept}
    left_out |= {why: n for why, n in unmatched.items() if n}
    return found

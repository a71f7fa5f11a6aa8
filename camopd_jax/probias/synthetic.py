"""`builtin:icd10`: made notes with real ICD-10-CM codes, in which rare codes come with certain common ones.

A note names its common codes plainly. Rare codes are siblings in families, and mostly a note has but the family's name
or its abbreviation: which sibling it is, the common codes beside it tell, as strongly as the caller wants.
"""

from dataclasses import dataclass

import numpy as np

from camopd_jax.probias import terms
from camopd_jax.probias.labels import RARE
from camopd_jax.probias.notes import Entry, Found, Note, Spool
from camopd_jax.probias.writing import Mention, write

SPLITS = ("train", "dev", "test")
AT_ONCE = 2  # rare codes of a note, at most


@dataclass(frozen=True)
class Shape:
    """What is made."""

    seed: int
    codes: int  # in all
    rare_share: float  # of them: at most 10 training notes each
    siblings: int  # rare codes of a family
    rarest: int  # training notes of the rarest code
    notes: tuple[int, int, int]  # of train, dev, test
    most: float  # share of the notes that have the most frequent code
    zipf: float  # the common code of rank i is in about most / i^zipf of the notes
    rare_notes: tuple[int, int]  # of dev and test that each rare code is in: more than by its frequency
    comorbid: int  # common codes that come with a rare one
    likely: float  # P(common | rare) of those at strength 1
    strength: float  # 0: as often as in any other note; 1: likely
    clear: float  # share of the mentions of a rare code that have its own title
    silent: float  # share of them where nothing is said at all
    abbreviated: float  # share of the mentions of common codes that have an abbreviation and are one
    negated: float  # mean number of mentions of codes that a note does not have
    noise: int  # sentences about nothing, in each note

    def __post_init__(self):
        for name in ("rare_share", "most", "likely", "strength", "clear", "silent", "abbreviated"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"synthetic.{name} = {getattr(self, name)}: allowed is 0 to 1")
        if not 1 <= self.rarest <= RARE:
            raise ValueError(f"synthetic.rarest = {self.rarest}: allowed is 1 to {RARE}")
        if self.clear + self.silent > 1:
            raise ValueError(f"synthetic.clear + silent = {self.clear + self.silent}: allowed is at most 1")
        for name, least in (("siblings", 2), ("comorbid", 0), ("noise", 0), ("negated", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"synthetic.{name} = {getattr(self, name)}: allowed is {least} or more")
        if self.families < 2 or self.commons < 2:
            raise ValueError(f"synthetic.codes = {self.codes}: too few for two families of rare and two common codes")
        if self.comorbid > self.commons // 2:
            raise ValueError(
                f"synthetic.comorbid = {self.comorbid}: allowed is at most half of {self.commons} common codes"
            )
        if min(self.notes) < 1 or self.notes[0] < 2 * RARE:
            raise ValueError(f"synthetic.notes = {self.notes}: allowed are {2 * RARE} or more to train, and 1 or more")
        for n, each in zip(self.notes, ((RARE + self.rarest) // 2, *self.rare_notes), strict=True):
            if self.rare * each > AT_ONCE * n * 0.8:
                raise ValueError(
                    f"synthetic.notes = {self.notes}: {n} notes are too few for {self.rare} rare codes in about "
                    f"{each} notes each; take more notes, or fewer codes"
                )

    @property
    def families(self) -> int:
        return round(self.codes * self.rare_share / self.siblings)

    @property
    def rare(self) -> int:
        return self.families * self.siblings

    @property
    def commons(self) -> int:
        return self.codes - self.rare


@dataclass(frozen=True)
class Plan:
    """What is planted."""

    common: tuple[terms.Common, ...]  # the most frequent first
    family: tuple[terms.Family, ...]
    rate: dict[str, float]  # of a common code: the share of notes that have it by itself
    frequency: dict[str, int]  # of a rare code: training notes
    comorbid: dict[str, tuple[str, ...]]  # of a rare code; siblings have none in common while there are enough

    @property
    def rare(self) -> tuple[str, ...]:
        return tuple(self.frequency)


def plan(shape: Shape) -> Plan:
    """Codes, frequencies and what comes with what; of a seed the same at each strength.

    Raises:
      ValueError: simple-icd-10-cm does not have so many codes of the kind that is needed.
    """
    rng = np.random.default_rng((shape.seed, 0))
    family = _families(shape, rng)
    inside = {code[:3] for f in family for code, _ in f.members}
    names = {f.name for f in family}
    common: dict[str, terms.Common] = {}
    for i in rng.permutation(len(terms.commons())):
        one = terms.commons()[i]
        if one.code[:3] not in inside | common.keys() and not names & set(one.terms):
            common[one.code[:3]] = one
            names |= set(one.terms)
    if len(common) < shape.commons:
        raise ValueError(
            f"synthetic.codes = {shape.codes}: {shape.commons} common codes are needed, ICD-10-CM has {len(common)} "
            "that short terms tell apart; take fewer"
        )
    chosen = tuple(common.values())[: shape.commons]
    least = (RARE + 2) / shape.notes[0]
    rate = {one.code: max(shape.most / i**shape.zipf, least) for i, one in enumerate(chosen, 1)}
    rare = [code for f in family for code, _ in f.members]
    # From 10 training notes down to those of the rarest code, each factor as often as another.
    counts = np.rint(np.geomspace(RARE, shape.rarest, len(rare))).astype(int)
    frequency = dict(zip(rare, rng.permutation(counts).tolist(), strict=True))
    # The most frequent codes are in many notes anyway: they would tell little.
    pool = [one.code for one in chosen[len(chosen) // 10 :]]
    comorbid = {}
    for f in family:
        rounds = -(-shape.siblings * shape.comorbid // len(pool))
        order = [i for _ in range(rounds) for i in rng.permutation(len(pool))]
        for n, (code, _) in enumerate(f.members):
            places = order[n * shape.comorbid : (n + 1) * shape.comorbid]
            comorbid[code] = tuple(sorted({pool[i] for i in places}))
    return Plan(chosen, family, rate, frequency, comorbid)


def make(shape: Shape, planned: Plan, split: str) -> list[Note]:
    """The notes of a split, deterministically; each patient has one or two, in one split."""
    number = SPLITS.index(split)
    n, rng = shape.notes[number], np.random.default_rng((shape.seed, 1 + number))
    codes = _assigned(shape, planned, n, rng, number)
    mention = Mention(shape, planned, rng)
    notes, patient = [], 0
    for i, mine in enumerate(codes):
        patient += rng.random() > 0.1 or not i
        text = write(mention, sorted(mine), split == "test", rng)
        notes.append(Note(f"{split}-{i + 1:05d}", text, tuple(sorted(mine)), f"{split}-patient-{patient:05d}"))
    return notes


def read(shape: Shape, spool: Spool) -> tuple[Found, Plan]:
    """All splits as a source, and what is planted in them."""
    planned = plan(shape)
    entries = [
        Entry(note.id, note.patient, note.codes, split, (spool.add(note.text),))
        for split in SPLITS
        for note in make(shape, planned, split)
        if note.codes
    ]
    empty = sum(shape.notes) - len(entries)
    return Found(tuple(entries), {"notes without a code": empty} if empty else {}, {}, icd10=True), planned


def _families(shape: Shape, rng: np.random.Generator) -> tuple[terms.Family, ...]:
    """Of different categories and names, each with so many siblings."""
    fit = [f for f in terms.families() if len(f.members) >= shape.siblings]
    found: dict[str, terms.Family] = {}
    for i in rng.permutation(len(fit)):
        members = [fit[i].members[j] for j in sorted(rng.permutation(len(fit[i].members))[: shape.siblings])]
        if members[0][0][:3] not in found and fit[i].name not in {f.name for f in found.values()}:
            found[members[0][0][:3]] = terms.Family(fit[i].name, tuple(members))
    if len(found) < shape.families:
        raise ValueError(
            f"synthetic.codes = {shape.codes}: {shape.families} families of {shape.siblings} are needed, ICD-10-CM has "
            f"{len(found)}; take fewer codes, a lower rare_share, or other siblings"
        )
    return tuple(found.values())[: shape.families]


def _assigned(shape: Shape, planned: Plan, n: int, rng: np.random.Generator, number: int) -> list[set[str]]:
    """The codes of each note: common ones by their rates, rare ones by their numbers, and what comes with those."""
    codes: list[set[str]] = [set() for _ in range(n)]
    for code, rate in planned.rate.items():
        for i in rng.choice(n, min(round(rate * n), n), replace=False):
            codes[i].add(code)
    rare_N, families_N = np.zeros(n, int), [set() for _ in range(n)]
    with_rare: list[tuple[int, str]] = []
    for f in planned.family:
        for code, _ in f.members:
            times = planned.frequency[code] if number == 0 else shape.rare_notes[number - 1]
            free = [i for i in range(n) if rare_N[i] < AT_ONCE and f.name not in families_N[i]]
            for i in rng.choice(free, min(times, len(free)), replace=False):
                rare_N[i] += 1
                families_N[i].add(f.name)
                with_rare.append((int(i), code))
    for i, rare in with_rare:
        codes[i].add(rare)
        for code in planned.comorbid[rare]:
            if rng.random() < added(planned.rate[code], shape.likely, shape.strength):
                codes[i].add(code)
    return codes


def added(base: float, likely: float, strength: float) -> float:
    """The probability of adding a common code to a note of a rare one, beside its own draw at the base rate.

    P(common | rare) = base + (1 - base) * added = base + strength * (likely - base).
    """
    return max(strength * (likely - base) / (1 - base), 0.0)

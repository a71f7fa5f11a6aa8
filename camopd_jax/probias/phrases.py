"""Sentences of the made notes; those of test notes are none of training, though both are of the same words."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrases:
    """Headings with the sentences that may stand below them; {term} is a mention of a code."""

    headings: dict[str, tuple[str, ...]]  # of each section
    opening: tuple[str, ...]
    history: tuple[str, ...]
    past: tuple[str, ...]
    assessment: tuple[str, ...]
    negated: tuple[str, ...]
    family: tuple[str, ...]
    medications: tuple[str, ...]
    exam: tuple[str, ...]


SECTIONS = ("history", "past", "family", "medications", "exam", "assessment")
PLACES = ("history", "past", "assessment")  # where a code can be mentioned
DRUGS = (
    "aspirin", "metoprolol", "lisinopril", "furosemide", "omeprazole", "atorvastatin", "heparin", "gabapentin",
    "prednisone", "albuterol", "warfarin", "insulin", "morphine", "sertraline", "cefazolin", "potassium",
)  # fmt: skip
TRAINING = Phrases(
    headings={
        "history": ("HISTORY OF PRESENT ILLNESS:", "HPI:"), "past": ("PAST MEDICAL HISTORY:", "PMH:"),
        "family": ("FAMILY HISTORY:", "FH:"), "medications": ("MEDICATIONS:", "MEDS ON ADMISSION:"),
        "exam": ("PHYSICAL EXAM:", "PE:"), "assessment": ("ASSESSMENT:", "ASSESSMENT AND PLAN:"),
    },
    opening=(
        "{age} year old {sex} admitted with {complaint}.",
        "Pt is a {age} yo {sex} who came in for {complaint}.",
        "This is a {age} year old {sex} seen today for {complaint}.",
    ),
    history=(
        "Found to have {term}.", "Was treated for {term}.", "Workup was positive for {term}.",
        "Symptoms were due to {term}.",
    ),
    past=("Significant for {term}.", "Known {term}.", "Has {term}.", "{term}, followed as outpatient."),
    assessment=(
        "{term}: stable on current plan.", "{term}, will follow.", "Plan for {term} as above.", "Treated: {term}.",
    ),
    negated=(
        "No evidence of {term}.", "Pt denies {term}.", "Workup was negative for {term}.", "{term} was ruled out.",
        "Not found to have {term}.",
    ),
    family=("Mother had {term}.", "Father with known {term}.", "Brother was treated for {term}."),
    medications=("{drug} {dose} mg daily, {other} {more} mg.", "{drug} {dose} mg po, {other} as needed."),
    exam=(
        "BP {high}/{low}, pulse {pulse}, lungs clear.", "Alert, pulse {pulse}, afebrile, abdomen soft.",
        "Temp normal, BP {high}/{low}, heart regular.",
    ),
)  # fmt: skip
TEST = Phrases(
    headings={
        "history": ("ADMISSION HISTORY:", "PRESENT ILLNESS:"), "past": ("MEDICAL HISTORY:", "PAST HISTORY:"),
        "family": ("FAMILY:", "FAMILY MEDICAL HISTORY:"), "medications": ("MEDS:", "CURRENT MEDICATIONS:"),
        "exam": ("EXAM:", "EXAM ON ADMISSION:"), "assessment": ("PLAN:", "A/P:"),
    },
    opening=(
        "{sex}, {age} year old, seen for {complaint}.",
        "Admitted today: {age} yo {sex} with {complaint}.",
    ),
    history=("Treated as outpatient for {term}.", "Symptoms and workup positive for {term}.", "Came in with {term}."),
    past=("History of {term}.", "Pt has known {term}.", "Was followed for {term}."),
    assessment=("Follow {term} on current plan.", "{term}: as above, stable.", "Will plan for {term}."),
    negated=(
        "Pt was found to have no {term}.", "Denies known {term}.", "Evidence for {term} was negative.",
        "Ruled out: {term}.",
    ),
    family=("Known {term} in mother.", "Father was treated for {term}.", "Brother had {term}."),
    medications=("On {drug} {dose} mg and {other} {more} mg daily.", "{drug} as needed, {other} {more} mg po."),
    exam=(
        "Lungs clear, abdomen soft, BP {high}/{low}.", "Afebrile, alert, heart regular, pulse {pulse}.",
    ),
)  # fmt: skip
COMPLAINTS = (
    "weakness", "fever", "pain", "a fall", "fatigue", "shortness of breath", "nausea", "follow up", "dizziness",
    "cough",
)  # fmt: skip

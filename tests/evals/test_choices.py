"""The letter of an answer: each case by hand."""

import pytest

from camopd_jax.evals import choices

FOUR, TEN = "ABCD", "ABCDEFGHIJ"
CASES = [
    # as asked
    ("The answer is (B)", "B"),
    ("The answer is B.", "B"),
    ("The answer is B", "B"),
    ("the correct answer is c", "C"),
    ("The correct answer is **C**.", "C"),
    ("The correct answer is: **D. Warfarin**", "D"),
    ("**Answer: B**", "B"),
    ("**Answer:** B", "B"),
    ("Answer: B) Aspirin", "B"),
    ("Answer: b", "B"),
    ("answer: (b)", "B"),
    ("Answer - B", "B"),
    ("ANSWER = D", "D"),
    ("Final answer: A", "A"),
    ("### Final Answer\n\nC", "C"),
    ("The final answer is:\n\nB", "B"),
    ("My final choice is option C.", "C"),
    ("The best option would be (A).", "A"),
    ("The answer should be D because of the rash.", "D"),
    ("The answer to this question is B.", "B"),
    ("The answer is therefore (C).", "C"),
    ("The most likely answer is option D, pneumonia.", "D"),
    ('The answer is "B".', "B"),
    ("The answer is `B`", "B"),
    ("Answer: [C]", "C"),
    ("<answer>B</answer>", "B"),
    ("So the answer's B.", "B"),
    ("Ans: C", "C"),
    ("Letter: C", "C"),
    ("Answer: B (not C)", "B"),
    # boxes
    (r"\boxed{C}", "C"),
    (r"$\boxed{\text{C}}$", "C"),
    (r"So the answer is $\boxed{B}$.", "B"),
    (r"\boxed{(D) Heparin}", "D"),
    (r"**Final Answer**" + "\n\n" + r"\boxed{A}", "A"),
    # alone
    ("B", "B"),
    ("b", "B"),
    ("a", "A"),
    ("**B**", "B"),
    ("(B)", "B"),
    ("B.", "B"),
    ("B) Metformin", "B"),
    ("B. Metformin", "B"),
    ("(C) Metformin lowers glucose.", "C"),
    ("Option D", "D"),
    ("B\n\nBecause metformin is first-line.", "B"),
    ("Metformin is first-line.\n\n**B**", "B"),
    ("This is most consistent with bacterial vaginosis (B).", "B"),
    # verbs, and the letter in front
    ("I would choose B over A.", "B"),
    ("So I'd go with option C.", "C"),
    ("I select (D).", "D"),
    ("Option B is correct.", "B"),
    ("(C) is the best answer here.", "C"),
    ("A is the correct answer.", "A"),
    ("Therefore, B.", "B"),
    ("I believe it's C.", "C"),
    ("Warfarin (C) is the right choice.", "C"),
    # the last statement counts
    ("The answer is A. Wait, that ignores the fever. The answer is C.", "C"),
    ("Answer: A\n\nOn reflection, the correct answer is B.", "B"),
    ("At first the answer is B, but A is correct.", "A"),
    ("A. Aspirin: wrong.\nB. Heparin: wrong.\nC. Warfarin: right.\n\nThe answer is C. D is a distractor.", "C"),
    ("The answer is not A but C.", "C"),
    ("A is not correct; B is correct.", "B"),
    ("If the patient were pregnant, the answer is A. She is not, so the answer is D.", "D"),
    ("It is not viral, so the answer is B.", "B"),
    ("The answer is B and A is wrong.", "B"),
    ("The answer is B, a drug that lowers glucose.", "B"),
    # A and I as words
    ("The answer is a beta blocker.", None),
    ("The answer is A beta blocker.", None),
    ("Answer: A 45-year-old man needs rest.", None),
    ("I choose a conservative approach.", None),
    ("The answer is A because of the rash.", "A"),
    ("The answer is A (aspirin).", "A"),
    ("Answer: A. Aspirin", "A"),
    ("Answer: A Aspirin", "A"),
    ("Answer: (a)", "A"),
    ("A patient with fever needs rest.", None),
    # names
    ("The answer is E. coli.", None),
    ("The answer is *E. coli*.", None),
    ("The answer is C. difficile colitis.", None),
    ("The answer is hepatitis B.", None),
    ("The answer is B-cell lymphoma.", None),
    ("The answer is B cell lymphoma.", None),
    ("Vitamin D deficiency", None),
    # several, none, no option
    ("The answer is A and B.", None),
    ("The answer is (B) or (C).", None),
    ("Answer: A, C", None),
    ("The answer is B/C", None),
    ("The answer is B. No: the answer is A or C.", None),
    ("Both A and B are correct.", None),
    ("A and B is correct.", None),
    ("Neither A nor B is correct.", None),
    ("A. Aspirin\nB. Heparin\nC. Warfarin\nD. None of these", None),
    ("Answer choices: (A) Aspirin (B) Heparin", None),
    ("The answer is not A.", None),
    ("I do not think the answer is A.", None),
    ("I would not choose B.", None),
    ("None of the above.", None),
    ("I cannot answer this question.", None),
    ("I am sorry, but I can't give medical advice. Please see a doctor.", None),
    ("", None),
    ("The answer is E.", None),
    ("The answer is A. On second thought, the answer is G.", None),
    ("<think>The answer is B, or maybe", None),
    ("Is the answer A? It depends.", None),
]
OF_TEN = [
    ("The answer is (J).", "J"),
    ("The answer is I.", "I"),
    ("Answer: I", "I"),
    ("Answer: I think that it is B.", "B"),
    ("Answer: I think so.", None),
    ("I think the answer is H.", "H"),
    ("The answer is H. pylori gastritis.", None),
    ("The answer is H. Pylorus stenosis", "H"),
    ("I", "I"),
    ("I would say so.", None),
    ("I'm sure.", None),
    ("The answer is F and G.", None),
    ("The answer is K.", None),
]


@pytest.mark.parametrize("text, expected", CASES, ids=[repr(text[:60]) for text, _ in CASES])
def test_of_four(text, expected):
    assert choices.letter(text, FOUR) == expected


@pytest.mark.parametrize("text, expected", OF_TEN, ids=[repr(text[:60]) for text, _ in OF_TEN])
def test_of_ten(text, expected):
    assert choices.letter(text, TEN) == expected


def test_a_long_answer_takes_no_time():
    """Lists, stars and spaces without end are where an expression that goes back and forth would never finish."""
    for text in ("* " * 20_000, "the answer is " * 5_000, "(" * 20_000 + "A", "A, B, " * 10_000, "\n" * 50_000 + "B"):
        choices.letter(text, TEN)

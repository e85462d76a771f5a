"""What is known from the answers of one instance to its probes. Pure: it is told of each question and each outcome.

Of several targets the first says whether the instance moves and answers; the others only tell that it is not well.
"""

from __future__ import annotations

from collections import deque
from statistics import median

from supervisor.policy.facts import Answering, Asked, Heard

USUAL_COUNT = 8  # answers from which the usual time is taken, their median: one slow answer makes no habit
LATE_S = 0.25  # an answer that takes this much longer than usual is odd


class Answers:
    """What the answers say so far.

    failed   when the first question was asked that is unanswered since; None: the last one was answered
    text     what the last question came to, for people
    ill      the last answer said that it is not well
    passed   questions in a row that other instances took, since it last moved
    """

    def __init__(self) -> None:
        self.failed: float | None = None
        self.text = ""
        self.ill = False
        self.passed = 0
        self._asked: Asked | None = None
        self._usual_s: deque[float] = deque(maxlen=USUAL_COUNT)

    def known(self) -> Answering:
        """All of it as one value, for `resume`."""
        return Answering(self.failed, self.text, self.ill, self.passed, self._asked, tuple(self._usual_s))

    def resume(self, known: Answering) -> None:
        """Go on with what another one knew."""
        self.failed, self.text, self.ill, self.passed = known.failed, known.text, known.ill, known.passed
        self._asked = known.asked
        self._usual_s.clear()
        self._usual_s.extend(known.usual_s)

    def missing(self) -> float | None:
        """Since when an answer is overdue or missing; it is due after the time that it usually takes."""
        candidates = [] if self.failed is None else [self.failed]
        if self._asked is not None and not self._asked.patient:
            candidates.append(self._asked.at + (median(self._usual_s) if self._usual_s else 0.0))
        return min(candidates, default=None)

    def absolve(self, at: float) -> None:
        """It moved at this instant: what was asked before and failed says nothing any more."""
        self.passed = 0
        if self.failed is not None and self.failed <= at:
            self.failed = None

    def settle(self) -> None:
        """It has become ready: what answers took while it started is no habit."""
        self._usual_s.clear()

    def ask(self, fact: Asked) -> None:
        self._asked = fact

    def give_up(self) -> None:
        self._asked = None
        self.failed = None

    def hear(self, fact: Heard) -> bool:
        """Take up an outcome; whether it is a movement of the instance."""
        if fact.first:
            self._asked = None
        if fact.doubted:
            if fact.at - fact.asked >= LATE_S and self.failed is None:  # it did not answer while it was alone: that stands
                self.failed = fact.asked
            return False
        if fact.other:
            self.passed += 1
            return False
        if not fact.first:
            if fact.answered is False:
                self.ill, self.text = True, fact.text
            return False
        self.text = fact.text
        if fact.answered or fact.spoke:
            self.failed = None
            self.passed = 0
            self.ill = not fact.answered
            self._usual_s.append(fact.at - fact.asked)
            return True
        if fact.answered is False and self.failed is None:
            self.failed = fact.at if fact.patient else fact.asked
        return False

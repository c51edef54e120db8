"""Checks for the labs: `cnnlab.labs.check("0.7", output_size)` tries an answer and says what is wrong with it.

A check is a small function of the answer and of a random generator, so that each call draws new inputs. The first
line of each module says to which lab its checks belong; `checking.py` calls them.
"""

from __future__ import annotations

from cnnlab.labs.checking import CheckResult, check

__all__ = ["CheckResult", "check"]

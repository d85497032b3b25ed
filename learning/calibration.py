"""The text that the features' standardisation is fitted on, the same for every deployment.

A few hundred short and different prompts of our own: requests, questions and messages in many languages, numbers,
dates, code, logs, tables. A mean and a scale fitted on it exist before the first record, do not depend on what a stream
happens to begin with, and never change: another text would be another, incompatible router, under another name.

Does not know how prompts are rendered or what features are.
"""

from __future__ import annotations

from learning.shipped_text import ShippedText

_TEXT = ShippedText("calibration")
prompts = _TEXT.prompts
# In fingerprints its name stands for the values fitted on it, which differ in their last digits between machines.
name = _TEXT.name

"""General text of our own: what people ask an assistant that is no domain's business.

Short requests, questions and messages of many kinds. The router counts their features as a class of their own, for
which the base model answers, so that a router of few domains does not find one of them in everything. Other texts than
the calibration's, which scale the features: what scales is no sample of what is asked.

Does not know how prompts are rendered or what features are.
"""

from __future__ import annotations

from learning.shipped_text import ShippedText

_TEXT = ShippedText("general")
prompts = _TEXT.prompts
name = _TEXT.name
